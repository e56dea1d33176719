"""The random parameters of a batch of views, drawn on the CPU into one tensor, which takes one copy to the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgekit.data.augment.geometry import central_box, random_boxes
from edgekit.data.to_device import to_device
from edgekit.recipe import Augmentation
from edgekit.sizes import ImageSize

_GROUPS = 4  # groups of images that share the order of the color operations


@dataclass(frozen=True)
class Draws:
    """The parameters of n views.

    Args:
        packed: float32 (n, columns). The columns of an operation begin with the indices of the views that it is applied to,
            in its first rows; whole numbers up to 2**24 are exact.
        columns: operation -> its slice of the columns.
        counts: operation -> how many views it is applied to.
        orders: order of the color operations (indices into `color.OPERATIONS`), one per group of jittered views.
        noise_seed: seed of the pixels of the noise, which the device draws.
    """

    packed: Tensor
    columns: dict[str, slice]
    counts: dict[str, int]
    orders: list[list[int]]
    noise_seed: int

    def to(self, device: torch.device) -> Draws:
        """Copy the parameters to a device; to a GPU without waiting for it."""
        return Draws(to_device(self.packed, device), self.columns, self.counts, self.orders, self.noise_seed)

    def geometry(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes (n, 4), whether each view is mirrored (n) and its quarter turns (n)."""
        part = self.packed[:, self.columns["geometry"]]
        return part[:, :4], part[:, 4] > 0, part[:, 5]

    def of(self, operation: str) -> tuple[Tensor, Tensor]:
        """Return the indices (m) int64 of the views that an operation is applied to, and its parameters (m, …)."""
        part = self.packed[: self.counts[operation], self.columns[operation]]
        return part[:, 0].long(), part[:, 1:]


def draw(config: Augmentation, size: ImageSize, n: int, height: int, width: int, generator: torch.Generator) -> Draws:
    """Draw the parameters of n views.

    Args:
        config: with the defaults that depend on the size filled in (`Augmentation.at`).
        size: of the views, in pixels.
        n: number of views.
        height: of the images, in pixels.
        width: of the images, in pixels.
        generator: a CPU generator; all randomness comes from it.
    """
    parts: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def apply(operation: str, chosen: Tensor, *parameters: Tensor) -> None:
        """Add the columns of an operation on the views in `chosen` (m), with parameters (m) or (m, k) each."""
        if not len(chosen):
            return
        counts[operation] = len(chosen)
        listed = [chosen[:, None].float(), *(p.reshape(len(chosen), -1).float() for p in parameters)]
        rows = torch.cat(listed, dim=1)
        parts[operation] = torch.cat([rows, rows.new_zeros(n - len(rows), rows.shape[1])])

    def some(probability: float) -> Tensor:
        """Draw the views that an operation of this probability is applied to."""
        return (torch.rand(n, generator=generator) < probability).nonzero()[:, 0]

    def uniform(count: int, low: float, high: float) -> Tensor:
        return torch.empty(count).uniform_(low, high, generator=generator)

    parts["geometry"] = _geometry(config, size, n, height, width, generator)
    orders: list[list[int]] = []
    strength = config.strength or 0.0
    if config.jitter > 0 and strength > 0:
        chosen = some(config.jitter)
        # In random order: neighbors in a batch may be similar, and groups of neighbors share an order.
        chosen = chosen[torch.randperm(len(chosen), generator=generator)]
        m = len(chosen)
        factors = [uniform(m, max(0.0, 1 - 0.8 * strength), 1 + 0.8 * strength) for _ in range(3)]
        reach = min(0.2 * strength, 0.5)
        apply("jitter", chosen, *factors, uniform(m, -reach, reach))
        orders = [torch.randperm(4, generator=generator).tolist() for _ in range(_GROUPS)]
    if config.gray > 0:
        apply("gray", some(config.gray))
    if config.blur:
        chosen = some(config.blur)
        apply("blur", chosen, uniform(len(chosen), *config.blur_sigma))
    if config.sobel > 0:
        apply("sobel", some(config.sobel))
    noise_seed = 0
    if config.noise > 0:
        chosen = some(config.noise)
        noise_seed = int(torch.randint(2**62, (), generator=generator))
        apply("noise", chosen, torch.full((len(chosen),), config.noise_std))
    if config.cutout > 0:
        chosen = some(config.cutout)
        side = max(1, round(config.cutout_side * size.shorter))
        centers = (torch.rand(len(chosen), 2, generator=generator) * torch.tensor([*size])).floor()
        apply("cutout", chosen, centers - side // 2, torch.full((len(chosen), 2), side))
    columns, start = {}, 0
    for operation, part in parts.items():
        columns[operation] = slice(start, start + part.shape[1])
        start += part.shape[1]
    return Draws(torch.cat(list(parts.values()), dim=1), columns, counts, orders, noise_seed)


def _geometry(
    config: Augmentation, size: ImageSize, n: int, height: int, width: int, generator: torch.Generator
) -> Tensor:
    """Box, mirrored and quarter turns: float32 (n, 6)."""
    boxes = _boxes(config, size, n, height, width, generator)
    flips = torch.rand(n, 1, generator=generator) < config.flip
    turns = torch.zeros(n, 1)
    if config.rotate > 0:
        turns = torch.randint(1, 4, (n, 1), generator=generator)
        turns = torch.where(torch.rand(n, 1, generator=generator) < config.rotate, turns, 0)
        if not size.is_square:  # before a quarter turn, a view is as high as it is wide afterwards
            turned = _boxes(config, size.transposed, n, height, width, generator)
            boxes = torch.where(turns % 2 == 1, turned, boxes)
    return torch.cat([boxes.float(), flips.float(), turns.float()], dim=1)


def _boxes(
    config: Augmentation, size: ImageSize, n: int, height: int, width: int, generator: torch.Generator
) -> Tensor:
    """The boxes that become views of this size before they are turned, int64 (n, 4)."""
    boxes = torch.tensor([central_box(height, width, size)]).expand(n, 4)
    if config.crop == 0:
        return boxes
    drawn = random_boxes(n, height, width, config.crop_scale, config.crop_ratio, generator, size.aspect)
    cropped = torch.rand(n, 1, generator=generator) < config.crop if config.crop < 1 else torch.tensor(True)
    return torch.where(cropped, drawn, boxes)
