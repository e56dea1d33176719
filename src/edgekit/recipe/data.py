"""The recipe's part `data`: where the images are, how they are read, and how they are split."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from edgekit.pixel_range import PixelRange, check_pixel_range
from edgekit.preprocess import MAX_PIXELS, Preprocessing
from edgekit.recipe.part import SMALL_IMAGE, RecipePart, Text
from edgekit.sizes import LEAST_SIDE, MOST_TRAINED, ImageSize, SizeBounds
from edgekit.text import counted

TORCHVISION = "torchvision:"  # before the name of one of torchvision's sets


def default_test(labeled: object) -> str | float:
    """Return the default of `data.test`: a share, or the official test split of a torchvision data set."""
    if isinstance(labeled, str) and labeled.startswith(TORCHVISION):
        return f"{TORCHVISION}{labeled.split(':')[1]}"
    return 0.2


class LabelCount(RecipePart):
    """A label budget as a number of images per class, and what happens to classes that have fewer."""

    per_class: int = Field(ge=1, description="labeled images per class")
    at_most: bool = Field(
        False, description="true: a class with fewer images uses all it has; false: such a class is an error"
    )


class DataConfig(RecipePart):
    """Where the images are, and how they are split."""

    labeled: Text | None = Field(
        "digits",
        description="labeled images: a folder with one sub-folder per class, a CSV file of images and classes, WebDataset "
        "shards (`train-{000..099}.tar`, a glob or a folder of "
        "them), Parquet tables (a file, a glob or a folder), a torchvision data set (`torchvision:CIFAR10`), or `digits` (shipped with "
        "scikit-learn); null: `pool` holds all images, and `labels` is a CSV file with the classes of some, or nothing is labeled yet",
    )
    pool: Text | None = Field(
        None,
        description="unlabeled images: a folder, flat or nested, or anything that `labeled` accepts; "
        "default: the images of `labeled`, without their labels",
    )
    normal: Text | None = Field(
        None,
        description="(mostly) normal images, for anomaly detection, in place of `labeled` and `pool`: a folder in the layout of MVTec AD "
        "(`train/good`, `test/DEFECT`, `ground_truth/DEFECT/*_mask.png`), a folder of normal images alone, a CSV file with the columns "
        "`file`, `label`, `mask` and `split`, or `textures` (generated). `probe` is the share of them that is held out for the threshold",
    )
    test: Text | Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2,
        description="test images: anything that `labeled` accepts, or the share of each class of `labeled` that is held out; "
        "default 0.2, for a torchvision data set its official test split; if `labeled` is null: the share of `pool` that training never "
        "sees, of which the images with a label in the CSV file are the test set",
    )
    probe: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of `labeled` kept out of the pool and the label budget; kNN and the linear probe learn from it",
    )
    classes_per_image: Literal["one", "any"] = Field(
        "one",
        description="set by `task`: with multilabel any number, also none, from a CSV file in `labeled`; else one",
    )
    labels: int | float | Text | LabelCount = Field(
        0.1,
        description="label budget: a fraction (0.01), a count per class (20), {per_class: 20, at_most: true} if rare classes may have "
        "fewer, or a CSV file with the column `file` (relative to `labeled`); if `labeled` is null, a CSV file with the columns `file` "
        "(relative to `pool`) and `class`",
    )
    label_seed: int = Field(0, ge=0, description="seed that draws the label budget, and nothing else")
    split_seed: int = Field(0, ge=0, description="seed that draws the test and probe sets")
    image_size: Annotated[ImageSize, SizeBounds(LEAST_SIDE, MOST_TRAINED)] = Field(
        ImageSize(32, 32),
        description="size of the images that the models take, in pixels: the side of a square (96), or [height, width] ([96, 128])",
        json_schema_extra={"default": 32},
    )
    resize_to: int | None = Field(
        None,
        ge=4,
        le=2048,
        description="shorter side of the area, of the shape of image_size, that an image must cover before the center crop; default the shorter "
        "side of image_size up to 64 px, 8/7 of it above (256/224)",
    )
    fit: Literal["crop", "stretch"] = Field(
        "crop",
        description="crop: keep the aspect ratio and cut out the center; stretch: resize to image_size, whatever the aspect ratio",
    )
    interpolation: Literal["bilinear", "bicubic", "lanczos"] = "bilinear"
    mean: float = Field(
        0.5,
        description="pixels in [0, 1] are normalized as (x - mean) / std; one number for all channels, which INT8 runtimes can fuse",
    )
    std: float = Field(0.25, gt=0)
    max_skipped: float = Field(
        0.01, ge=0, le=1, description="largest share of unreadable files; with more, the run is refused"
    )
    pixel_range: PixelRange | Literal["auto"] = Field(
        "auto",
        description="images of more than 8 bits: [LOW, HIGH], the values that become the gray levels 0 and 255; dtype: the range of the number "
        "type ([0, 65535] for integers, [0, 1] for floats); auto: measured on all images of `labeled` and `pool`",
    )
    max_pixels: int = Field(
        MAX_PIXELS,
        ge=1,
        description="images with more pixels than this count as unreadable; a JPEG with more than 100 million is decoded at a reduced size",
    )
    stream: bool | Literal["auto"] = Field(
        "auto",
        description="true: decode the pool during training, and store nothing; false: decode it once, into the cache or into memory; "
        "auto: stream only if the pool fits neither on the disk nor into memory; the trained weights are the same",
    )
    image_column: Text = Field("image", description="Parquet tables: column of the encoded images")
    label_column: Text = Field(
        "label", description="the class: column of a Parquet table, or key in the .json members of a shard"
    )
    class_names: Text | None = Field(
        None,
        description="shards and tables whose labels are numbers: text file whose line i (from 0) is the name of class i; CSV files: text file "
        "with the names of all classes",
    )
    torchvision_root: Text | None = Field(
        None, description="folder of the torchvision data sets; default torchvision/ in the cache"
    )
    download: bool = Field(False, description="let torchvision download a missing data set")

    def test_set(self, count: int) -> str:
        """Say where the test images are from, and how many they are."""
        where = self.test if isinstance(self.test, str) else self.labeled or self.pool
        return f"{where}: test set of {counted(count, 'image')}"

    @model_validator(mode="before")
    @classmethod
    def _normal_instead(cls, content: Any) -> Any:
        """With `normal`, the default of `labeled` is null."""
        if isinstance(content, dict) and content.get("normal") is not None:
            return {"labeled": None} | content
        return content

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if self.resize_to is not None and self.resize_to < (shorter := self.image_size.shorter):
            of = "" if self.image_size.is_square else "the shorter side of "
            raise ValueError(f"resize_to ({self.resize_to}) must be at least {of}image_size ({shorter})")
        check_pixel_range(self.pixel_range)
        if self.normal is not None:
            self._check_normal()
        elif self.labeled is None and self.pool is None:
            raise ValueError("labeled is null, so pool must name the images")
        if isinstance(self.labels, float) and not 0 < self.labels <= 1:
            raise ValueError(
                f"labels ({self.labels}) must be a fraction in (0, 1], a whole number of images per class, or a CSV file"
            )
        if isinstance(self.labels, int) and self.labels < 1:
            raise ValueError(f"labels ({self.labels}) must be at least 1 image per class")
        if self.labeled is not None and isinstance(self.test, float) and self.test + self.probe >= 1:
            raise ValueError(
                f"test ({self.test:g}) and probe ({self.probe:g}) leave no images to train on: their sum must be less than 1"
            )
        return self

    def _check_normal(self) -> None:
        for key, value in (("labeled", self.labeled), ("pool", self.pool)):
            if value is not None:
                raise ValueError(f"normal and {key} cannot be combined: normal names all images, so remove {key}")
        if isinstance(self.test, str):
            raise ValueError(
                f"test ({self.test}) cannot name images beside normal: put the test images into {self.normal}/test/"
            )

    def preprocessing(self, measured_range: PixelRange | None = None) -> Preprocessing:
        """Return how an image becomes what the models take, in evaluation and on the device.

        Args:
            measured_range: the range measured on the data set, which is used if `pixel_range` is auto.
        """
        side = self.image_size.shorter
        resize_to = self.resize_to or (side if side <= SMALL_IMAGE else round(side * 8 / 7))
        return Preprocessing(
            image_size=self.image_size,
            resize_to=resize_to,
            fit=self.fit,
            interpolation=self.interpolation,
            pixel_range=measured_range if self.pixel_range == "auto" else self.pixel_range,
        )
