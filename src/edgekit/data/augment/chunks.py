"""Split batches into parts that fit into the cache of a CPU: a pass over memory costs several times one over the cache. GPUs get whole batches."""

from __future__ import annotations

from collections.abc import Iterator

import torch

_CACHE_BYTES = 2 << 20


def chunks(n: int, bytes_an_image: int, device: torch.device) -> Iterator[slice]:
    """Yield slices of `range(n)`, of about 2 MB each on a CPU; one slice elsewhere."""
    step = max(1, _CACHE_BYTES // bytes_an_image) if device.type == "cpu" else max(1, n)
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))
