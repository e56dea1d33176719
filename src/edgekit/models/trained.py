"""A run's network for plain PyTorch, with its classes and preprocessing; it checks its inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from edgekit.errors import DataError
from edgekit.models.classifier import Classifier
from edgekit.models.encoders import Encoder
from edgekit.models.pixels import Statistics, normalize
from edgekit.preprocess import Preprocessing, as_image, bounded_decoding

if TYPE_CHECKING:
    from edgekit.image_files import ImageInput


class TrainedNetwork(nn.Module):
    """A classifier or an encoder of a run. It takes normalized images: float32 (n, 3, h, w), as `transform` and `normalize` make them.

    Args:
        network: maps such images to logits (n, classes), or features (n, d).
        preprocessing: from an image file to uint8 pixels (h, w, 3).
        mean: pixels in [0, 1] are normalized as (x - mean) / std.
        std: see `mean`.

    Attributes:
        network: the bare network.
        classes: names, in the order of the logits; empty for an encoder.
        image_size: h and w, in pixels; a square equals its side.
        feature_dim: d, the width of the result of `embed`.
    """

    def __init__(
        self, network: Classifier | Encoder, preprocessing: Preprocessing, mean: Statistics, std: Statistics
    ) -> None:
        super().__init__()
        self.network = network
        self.preprocessing = preprocessing
        self.mean, self.std = mean, std
        self.classes = list(network.classes) if isinstance(network, Classifier) else []
        self.image_size = preprocessing.image_size
        self.feature_dim = network.head.in_features if isinstance(network, Classifier) else network.feature_dim

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of a classifier, features (n, d) of an encoder.

        Args:
            images: normalized, floating point (n, 3, h, w), on the network's device.

        Raises:
            DataError: wrong dtype or shape; unnormalized pixels are recognized by their dtype, uint8.
        """
        _check(images)
        return self.network(images)

    def embed(self, images: Tensor) -> Tensor:
        """Features (n, d); for a classifier, the input of its linear layer. Arguments and errors as in `forward`."""
        _check(images)
        return self.network.embed(images) if isinstance(self.network, Classifier) else self.network(images)

    def transform(self, image: ImageInput) -> Tensor:
        """One image as evaluation sees it: float32 (3, s, s), resized by the run's preprocessing and normalized, on the CPU.

        Args:
            image: a path, the bytes of an encoded image, a PIL image, or a NumPy array, uint8 RGB (height, width, 3).

        Raises:
            DataError: the image has another type, or cannot be read.
        """
        with bounded_decoding():
            pixels = self.preprocessing(as_image(image))
        return self.normalize(torch.from_numpy(pixels.copy())[None])[0].contiguous()

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 RGB pixels (n, h, w, 3) as normalized float32 (n, 3, h, w), on the same device.

        Raises:
            DataError: wrong dtype or shape.
        """
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
            raise DataError(f"normalize takes uint8 pixels (n, height, width, 3), not {_described(pixels)}")
        return normalize(pixels, self.mean, self.std)

    def extra_repr(self) -> str:
        """The text that `print` shows for the module itself."""
        height, width = self.image_size
        classes = f"{len(self.classes)} classes" if self.classes else f"{self.feature_dim} features"
        return f"normalized float32 (n, 3, {height}, {width}) -> {classes}"


def _check(images: Tensor) -> None:
    if not images.is_floating_point() or images.ndim != 4 or images.shape[1] != 3:
        raise DataError(
            f"the network takes normalized images, floating point (n, 3, h, w), not {_described(images)}",
            "use model.transform for one image, or model.normalize for a batch of uint8 pixels (n, h, w, 3)",
        )


def _described(images: Tensor) -> str:
    return f"{str(images.dtype).removeprefix('torch.')} ({', '.join(map(str, images.shape))})"
