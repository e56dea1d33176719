"""Positional embeddings of ViTs, interpolated for images of another size."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

_NAMES = ("pos_embed", "pos_embedding")
_PREFIXES = (1, 0, 2, 5)  # tokens before the patches: the class token, none, with a distillation token, with registers


def interpolated(network: nn.Module, found: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Resample positional embeddings (1, tokens, d) to the grid of a network, bicubic and antialiased as in timm.

    Args:
        network: a ViT of timm or torchvision.
        found: tensors of a file by the network's names.
        wanted: the network's own tensors.

    Returns:
        `found`, with embeddings of square grids resampled to the network's own grid; what cannot be resampled stays as it is.
    """
    from timm.layers.pos_embed import resample_abs_pos_embed

    result = dict(found)
    for name, tensor in found.items():
        if name.rpartition(".")[2] not in _NAMES or name not in wanted or tensor.shape == wanted[name].shape:
            continue
        if tensor.ndim != 3 or tensor.shape[2] != wanted[name].shape[2]:
            continue
        own = _grid(network)
        prefix = _prefix(network, tensor.shape[1], wanted[name].shape[1], own)
        if prefix is not None:
            side = math.isqrt(wanted[name].shape[1] - prefix)
            result[name] = resample_abs_pos_embed(tensor, own or [side, side], num_prefix_tokens=prefix)
    return result


def _grid(network: nn.Module) -> list[int] | None:
    """Rows and columns of the patches of a ViT of timm; None where the network does not say."""
    size = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    return [int(side) for side in size] if isinstance(size, tuple) and len(size) == 2 else None


def _prefix(network: nn.Module, old: int, new: int, grid: list[int] | None) -> int | None:
    """The number of embeddings of tokens before the patches; None if the rest is not a square grid, or for the network not its own grid."""
    own = getattr(network, "num_prefix_tokens", None)
    if own is not None:
        own = 0 if getattr(network, "no_embed_class", False) else int(own)
    for prefix in _PREFIXES if own is None else (own,):
        fits = _is_square(new - prefix) if grid is None else math.prod(grid) == new - prefix
        if fits and _is_square(old - prefix):
            return prefix
    return None


def _is_square(count: int) -> bool:
    return count > 0 and math.isqrt(count) ** 2 == count
