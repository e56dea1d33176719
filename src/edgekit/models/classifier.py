"""The classifier: an encoder, the kept layers of the projection head, and a linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from edgekit.models.encoders import Encoder, Normalization, build_encoder
from edgekit.models.heads import KeptLayers, kept_layers
from edgekit.recipe import Architecture
from edgekit.sizes import ImageSize, SizeLike


class Classifier(nn.Module):
    """A teacher or student network.

    Args:
        architecture: the encoder's architecture, stored with the model so that it can be built again.
        image_size: size of the images, in pixels.
        classes: names, in the order of the logits.
        encoder: maps images to features.
        kept: layers of the projection head that stay (none for students).
    """

    def __init__(
        self,
        architecture: Architecture,
        image_size: SizeLike,
        classes: list[str],
        encoder: Encoder,
        kept: KeptLayers | None = None,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.image_size = ImageSize.of(image_size)
        self.classes = list(classes)
        self.encoder = encoder
        self.kept = kept if kept is not None else KeptLayers([])
        widths = self.kept.widths()
        self.head = nn.Linear(widths[-1] if widths else encoder.feature_dim, len(classes))
        nn.init.zeros_(self.head.weight)  # the zero-initialized classifier of SimCLR v2's fine-tuning
        nn.init.zeros_(self.head.bias)

    @classmethod
    def build(
        cls,
        architecture: Architecture,
        image_size: SizeLike,
        classes: list[str],
        kept_widths: list[int],
        where: str = "encoder",
        normalization: Normalization | None = None,
    ) -> Classifier:
        """Build a classifier with new weights; see `build_encoder` for `where` and `normalization`.

        Raises:
            RecipeError: the architecture is unknown or does not fit the image size.
        """
        encoder = build_encoder(architecture, image_size, where, normalization)
        return cls(architecture, image_size, classes, encoder, kept_layers(encoder.feature_dim, kept_widths))

    def embed(self, images: Tensor) -> Tensor:
        """The input of the linear layer, (n, d), for normalized float32 images (n, 3, h, w)."""
        return self.kept(self.encoder(images))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of normalized float32 images (n, 3, h, w)."""
        return self.head(self.embed(images))
