"""The random views of an image that a stage trains on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from edgekit.recipe.part import SMALL_IMAGE, RecipePart
from edgekit.sizes import ImageSize, SizeLike

Transformation = Literal["crop", "cutout", "color", "sobel", "noise", "blur", "rotate", "flip", "jitter", "gray"]


class Tiles(RecipePart):
    """Square windows at random places of the images, which pretraining compares in place of whole images."""

    side: float = Field(
        0.375,
        gt=0,
        le=1,
        description="side of a window as a share of the shorter side of the image; its views are as small",
    )
    count: int = Field(
        4, ge=1, description="windows of each image per step, so that a step compares batch_size times as many"
    )

    def pixels(self, shorter: int) -> int:
        """Return the side of a window of an image with this shorter side, in pixels."""
        return max(1, round(self.side * shorter))


class Augmentation(RecipePart):
    """SimCLR's augmentations (Chen et al. 2020, figure 4 and appendix A), random for each image; a probability of 0 switches one off."""

    crop: float = Field(
        1.0,
        ge=0,
        le=1,
        description="probability of a random crop, resized to the image size; without it, the center is taken",
    )
    crop_scale: tuple[float, float] = Field((0.08, 1.0), description="area of the crop as a share of the image area")
    crop_ratio: tuple[float, float] = Field(
        (3 / 4, 4 / 3), description="aspect ratio of the crop, width by height, relative to that of image_size"
    )
    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    rotate: float = Field(0.0, ge=0, le=1, description="probability of a rotation by 90, 180 or 270 degrees")
    jitter: float = Field(0.8, ge=0, le=1, description="probability of the color jitter")
    strength: float | None = Field(
        None,
        ge=0,
        le=2,
        description="strength s of the color jitter in SimCLR: brightness, contrast and saturation 0.8 s, hue 0.2 s; default 0.5 up to 64 px "
        "(appendix B.9), 1.0 above",
    )
    gray: float = Field(0.2, ge=0, le=1, description="probability of conversion to gray")
    blur: float | None = Field(
        None,
        ge=0,
        le=1,
        description="probability of a Gaussian blur (kernel: 10 % of the shorter side); default 0 up to 64 px, 0.5 above",
    )
    blur_sigma: tuple[float, float] = Field((0.1, 2.0), description="standard deviation of the blur, in pixels")
    sobel: float = Field(0.0, ge=0, le=1, description="probability of a Sobel filter (gradient magnitude)")
    noise: float = Field(0.0, ge=0, le=1, description="probability of Gaussian noise")
    noise_std: float = Field(
        0.1, gt=0, le=1, description="standard deviation of the noise, for pixels in [0, 1] (torchvision's default)"
    )
    cutout: float = Field(0.0, ge=0, le=1, description="probability of cutting out a square")
    cutout_side: float = Field(
        0.5,
        gt=0,
        le=1,
        description="side of the cutout as a share of the shorter side of the image (DeVries & Taylor 2017: 16 of 32 px)",
    )

    @model_validator(mode="after")
    def _check(self) -> Augmentation:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_scale {list(self.crop_scale)} must be two shares with 0 < low <= high <= 1")
        low, high = self.crop_ratio
        if not 0 < low <= high:
            raise ValueError(f"crop_ratio {list(self.crop_ratio)} must be two ratios with 0 < low <= high")
        low, high = self.blur_sigma
        if not 0 < low <= high:
            raise ValueError(f"blur_sigma {list(self.blur_sigma)} must be two widths in pixels with 0 < low <= high")
        return self

    def at(self, image_size: SizeLike) -> Augmentation:
        """Return a copy in which the defaults that depend on the image size, its shorter side, are filled in."""
        small = ImageSize.of(image_size).shorter <= SMALL_IMAGE
        return self.model_copy(
            update={
                "strength": self.strength if self.strength is not None else (0.5 if small else 1.0),
                "blur": self.blur if self.blur is not None else (0.0 if small else 0.5),
            }
        )
