"""Nearest neighbors among features, and the anomaly score that follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from edgekit.progress import progress

_BLOCK = 500
_NEVER = -2.0  # below any cosine


def nearest(
    bank: Tensor, queries: Tensor, k: int, but: Mapping[int, Sequence[int]] | None = None, title: str = ""
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the k rows of the bank that are nearest to each query by cosine, the nearest first.

    Args:
        bank: features (n, d).
        queries: features (m, d), on the same device.
        k: at most the number of rows that are left for every query.
        but: for a query, the rows of the bank to leave out (itself); by default none.
        title: of the progress.

    Returns:
        Cosines (m, k) and rows (m, k), on the CPU.
    """
    bank, but = F.normalize(bank.float(), dim=1), but or {}
    cosines, rows = [], []
    with progress(title, len(queries), unit="images") as advance:
        for start in range(0, len(queries), _BLOCK):
            part = F.normalize(queries[start : start + _BLOCK].float(), dim=1) @ bank.T
            for i in range(len(part)):
                if left_out := but.get(start + i):
                    part[i, list(left_out)] = _NEVER
            top = part.topk(k, dim=1)
            cosines.append(top.values)
            rows.append(top.indices)
            advance(len(part))
    return torch.cat(cosines).clamp(-1, 1).cpu().numpy(), torch.cat(rows).cpu().numpy()


def distances(cosines: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return Euclidean distances between l2-normalized features, 0 to 2, from their cosines.

    The distance to the k-th nearest neighbor is the anomaly score of Sun et al. 2022 (Out-of-distribution detection with deep
    nearest neighbors, equation 4).
    """
    return np.sqrt(np.maximum(2 - 2 * cosines, 0)).astype(np.float32)
