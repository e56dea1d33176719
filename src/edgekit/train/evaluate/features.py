"""Apply a model to a set of images: evaluation mode, float32, one pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekit.data.images import ImageSet
from edgekit.data.pixels import Pixels
from edgekit.data.splits import Splits
from edgekit.models.pixels import normalize
from edgekit.progress import Advance, progress
from edgekit.recipe import Recipe
from edgekit.train.loop.devices import full_float32, uses_cuda
from edgekit.train.loop.memory import is_out_of_memory

BATCH = 500


def outputs(
    model: nn.Module,
    images: Pixels,
    mean: float,
    std: float,
    device: torch.device,
    title: str = "",
) -> Tensor:
    """Compute a model's outputs (n, d) for uint8 images (n, h, w, 3): see `several_outputs`.

    Args:
        model: maps normalized float32 images (b, 3, s, s) to (b, d).
        images, mean, std, device, title: see `several_outputs`.
    """
    (found,) = several_outputs(model, images, mean, std, device, title)
    return found


def several_outputs(
    model: nn.Module,
    images: Pixels,
    mean: float,
    std: float,
    device: torch.device,
    title: str = "",
    size: int = BATCH,
    kept_on: torch.device | None = None,
) -> tuple[Tensor, ...]:
    """Compute a model's outputs, (n, …) each, for uint8 images (n, h, w, 3), in evaluation mode and float32, on `device`.

    The model stays on `device`; the mode of each module is restored. No random number is drawn.

    Args:
        model: maps normalized float32 images (b, 3, h, w) to one tensor (b, …), or to a tuple of several.
        images: n >= 1; read and copied batch by batch.
        mean: of the normalization, for pixels in [0, 1].
        std: of the normalization.
        device: where the outputs are computed.
        title: of the progress; empty: no progress (inside a training, which shows its own).
        size: images of a batch; smaller batches follow where so many do not fit into memory.
        kept_on: where the outputs are collected; default: `device`.
    """
    parts: list[tuple[Tensor, ...]] = []
    done, where = 0, kept_on or device
    with (
        _evaluating(model), _uncompiled(model), full_float32(), torch.inference_mode(), _bar(title, len(images)) as advance,
    ):  # fmt: skip
        model.to(device)
        while done < len(images):
            part = _outputs_if_they_fit(model, images[done : done + size], mean, std, device)
            if (
                part is None
            ):  # large images on a small GPU, hours after the training began: smaller batches give the same outputs
                size //= 2
                continue
            parts.append(tuple(output.to(where) for output in part))
            done += len(part[0])
            advance(len(part[0]))
    return tuple(torch.cat(own) for own in zip(*parts, strict=True))


def _outputs_if_they_fit(
    model: nn.Module, images: NDArray[np.uint8], mean: float, std: float, device: torch.device
) -> tuple[Tensor, ...] | None:
    """Compute the outputs of one batch; None if it does not fit into memory, but a smaller one may."""
    try:
        found = model(normalize(torch.tensor(images, device=device), mean, std))
        return tuple(part.float() for part in (found if isinstance(found, tuple) else (found,)))
    except (RuntimeError, MemoryError) as error:
        if len(images) == 1 or not is_out_of_memory(error):
            raise
        return None


def apply(
    model: nn.Module,
    images: Pixels,
    mean: float,
    std: float,
    device: torch.device,
    title: str = "",
) -> Tensor:
    """Compute `outputs` and copy them to the CPU."""
    return outputs(model, images, mean, std, device, title).cpu()


def device_of(recipe: Recipe) -> torch.device:
    """Return the device to apply models on: a CUDA GPU if there is one and the recipe allows it, else the CPU."""
    return torch.device("cuda" if uses_cuda(recipe.hardware) else "cpu")


def bank_of(splits: Splits, recipe: Recipe) -> ImageSet:
    """Return the labeled images for kNN and linear probe: the probe set, which no training saw, or else the label budget."""
    if len(splits.probe):
        return splits.probe
    preprocessing = recipe.data.preprocessing()
    return splits.labeled.center_crop(preprocessing.image_size)


def bank_name(splits: Splits) -> str:
    """Return the name of `bank_of`, for a protocol."""
    return "probe set (not in the pool)" if len(splits.probe) else "label budget"


def labels_of(images: ImageSet) -> Tensor:
    """Return the labels, int64 (n)."""
    assert images.labels is not None
    return torch.from_numpy(images.labels)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode in this block; then restore the mode of each module (a part of the model may be frozen)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _uncompiled(model: nn.Module) -> AbstractContextManager[object]:
    """Run a compiled model eagerly: it would be compiled again, for minutes, for these batches."""
    compiled = any(getattr(module, "_compiled_call_impl", None) is not None for module in model.modules())
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


@contextmanager
def _bar(title: str, total: int) -> Iterator[Advance]:
    if not title:
        yield lambda steps=1, note="": None
        return
    with progress(title, total, unit="images") as advance:
        yield advance
