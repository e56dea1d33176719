"""The parts of a recipe that are not a pretraining method: data, augmentation, optimizer, networks, the later stages, hardware.

Each default comes from a paper, or a comment says why it does not.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgekit.pixel_range import PixelRange, check_pixel_range
from edgekit.preprocess import MAX_PIXELS, Preprocessing
from edgekit.recipe.bounds import BOUNDS
from edgekit.recipe.names import PRETRAINED, check_std, factory_of, library_of
from edgekit.sizes import LEAST_SIDE, MOST_TRAINED, ImageSize, SizeBounds, SizeLike
from edgekit.spelling import KEYS, translated_keys

TORCHVISION = "torchvision:"  # before the name of one of torchvision's sets
SMALL_IMAGE = 64  # at or below this size, the CIFAR settings of SimCLR (appendix B.9) are the defaults


class RecipePart(BaseModel):
    """A part of the recipe: no unknown keys, no change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _earlier_names(cls, content: Any) -> Any:
        """Accept the keys as recipes spelled them before American spelling."""
        if not isinstance(content, dict):
            return content
        for earlier, name in KEYS.items():
            if name in cls.model_fields and name in content and earlier in content:
                raise ValueError(f"{name} is given twice: {earlier} is its earlier name; keep {name}")
        return translated_keys(content, cls.model_fields)

    @model_validator(mode="before")
    @classmethod
    def _no_booleans(cls, content: Any) -> Any:
        """Refuse booleans where a number is meant: Python counts True as 1, so `labels: yes` would be one label per class."""
        for name, value in content.items() if isinstance(content, dict) else ():
            field = cls.model_fields.get(name)
            allowed = (field.annotation, *get_args(field.annotation)) if field is not None else (bool,)
            if isinstance(value, bool) and field is not None and bool not in allowed:
                quote = " (YAML reads yes, no, on and off so: put text in quotes)" if str in allowed else ""
                raise ValueError(
                    f"{name} must not be {str(value).lower()}{quote}, accepted: {field.description or 'a value'}"
                )
        return content


Text = Annotated[str, Field(min_length=1)]


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


Transformation = Literal["crop", "cutout", "color", "sobel", "noise", "blur", "rotate", "flip", "jitter", "gray"]


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


class Optimizer(RecipePart):
    """The optimizer and its schedule: linear warm-up, then cosine decay to 0 (both by step)."""

    name: Literal["lars", "sgd", "adamw"] = "lars"
    lr: float = Field(0.3, gt=0, description="base learning rate; multiplied by batch_size / 256 if `scale_lr` is true")
    scale_lr: bool = Field(
        True, description="linear scaling of the learning rate with the batch size (Goyal et al. 2017)"
    )
    weight_decay: float = Field(1e-6, ge=0, description="weight decay; not applied to biases and normalization layers")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of lars and sgd")
    warmup: float = Field(
        0.0, ge=0, le=0.9, description="warm-up as a share of the steps of the stage: the learning rate rises linearly"
    )
    warmup_epochs: float | None = Field(None, ge=0, description="warm-up in epochs; replaces `warmup`")


Epochs = Annotated[int, Field(ge=1)] | Literal["auto"]
_EPOCHS = "passes over the images; auto: as many as needed for `steps` steps, and at least {0} epochs{1}"


def epochs_field(stage: str) -> Any:
    """Return the field `epochs` of a stage; its description gives the bounds of auto."""
    bounds = BOUNDS[stage]
    most = f", at most {bounds.high}" if bounds.high else ""
    return Field("auto", description=_EPOCHS.format(bounds.low, most))


def steps_field(stage: str) -> Any:
    """Return the field `steps` of a stage."""
    steps = BOUNDS[stage].steps
    return Field(
        None,
        ge=1,
        description=f"with `epochs: auto`: the least number of steps, without the other bounds; default {steps:,}, with the bounds of `epochs`",
    )


Normalization = float | tuple[float, float, float]


class Architecture(RecipePart):
    """An image network by name."""

    name: str = Field(
        "resnet18",
        description="a network of torchvision or timm; write `torchvision:` or `timm:` before a name that both have",
    )
    width: float = Field(
        1.0, ge=0.125, le=4, description="ResNets only: factor on the channels of the stem and of every stage"
    )
    stem: Literal["auto", "cifar", "strided", "imagenet"] = Field(
        "auto",
        description="ResNets only: cifar: 3x3 convolution of stride 1, no max-pool; strided: the same with stride 2 (a quarter of the work); "
        "imagenet: 7x7 convolution of stride 2 and max-pool; auto: cifar up to 64 px, imagenet above",
    )
    selective_kernels: bool = Field(
        False,
        description="ResNets with bottleneck blocks only (resnet50, …): selective kernels of SimCLR v2, with the stem and shortcuts of ResNet-D",
    )
    patch_size: int | None = Field(
        None, ge=1, le=64, description="ViTs of timm only: side of the patches in pixels; default: the one in the name"
    )
    weights: Text | None = Field(
        None,
        description="weights to start from, without a classifier: pretrained: those that timm or torchvision publish for the network, "
        "fetched into their caches (timm:NAME.TAG chooses among several); or a file, safetensors or a torch state dict, loaded strictly",
    )
    weights_key: Text | None = Field(
        None,
        description="key of the weights in a checkpoint that holds several, for instance state_dict or teacher; default: those that fit, an "
        "exponential moving average (EMA) first",
    )

    mean: Normalization | None = Field(
        None,
        description="mean of the images that the weights were trained with, one number or three; default: with published weights their own, "
        "else data.mean",
    )
    std: Normalization | None = Field(None, description="standard deviation, likewise")
    interpolate_positions: bool = Field(
        False,
        description="interpolate the positional embedding of a ViT whose weights were trained on images of another size",
    )
    channels: dict[Text, Annotated[int, Field(ge=1)]] | None = Field(
        None,
        description="a pruned network: output channels of its layers, by name, where pruning left fewer than the network has; "
        "`edgekit search --prune` writes them. The layers in between follow",
    )

    def same_network(self, other: Architecture) -> bool:
        """Whether weights of one fit the other: both differ at most in the weights that they start from and how images are normalized."""
        without = {"weights", "weights_key", "mean", "std", "interpolate_positions"}
        return self.model_dump(exclude=without) == other.model_dump(exclude=without)

    @model_validator(mode="after")
    def _key_of_a_file(self) -> Architecture:
        if self.weights_key is not None and self.weights in {None, PRETRAINED}:
            raise ValueError(f"weights_key is {self.weights_key}, but weights names no file")
        if self.channels is not None and self.weights == PRETRAINED:
            raise ValueError("channels is of a pruned network, but published weights are of the whole one: name a file")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together: set both or neither")
        if any(
            value is not None and value <= 0 for value in (self.std if isinstance(self.std, tuple) else (self.std,))
        ):
            raise ValueError(f"std ({self.std}) must be greater than 0")
        return self


class Consistency(RecipePart):
    """Pseudo-labels of the pool, predicted on a weak view and learned on a strong view of the same image (FixMatch, Sohn et al. 2020)."""

    enabled: bool = True
    images: int = Field(256, ge=2, description="images of the pool per step, in addition to the labeled ones")
    weight: float = Field(1.0, gt=0, description="weight of the loss on pseudo-labels; 1 in FixMatch on CIFAR-10")
    threshold: Annotated[float, Field(ge=0, lt=1)] | Literal["adaptive"] = Field(
        0.95,
        description="least confidence of a pseudo-label that is trained on; adaptive: follows the confidence of the model, for each class "
        "(FreeMatch, Wang et al. 2023)",
    )
    align: Literal["labels", "start", "none"] = Field(
        "labels",
        description="distribution alignment of the pseudo-labels (ReMixMatch), toward the class shares of: labels: the label budget; start: the "
        "predictions for the pool before fine-tuning; none: no alignment",
    )
    max_drift: float = Field(
        0.5,
        gt=0,
        le=1,
        description="largest share of the pseudo-labels whose class may change since the start of fine-tuning; beyond it, fine-tuning continues "
        "on the labels alone",
    )
    max_gap: float = Field(
        0.5,
        gt=0,
        le=1,
        description="limit on the probe set for the confidence minus the accuracy of the images that would count as pseudo-labels; beyond it "
        "(95 % interval), fine-tuning continues on the labels alone. Also the limit for the difference between their share and that of the "
        "pool; beyond it, a warning is printed",
    )
    augmentation: Augmentation | None = Field(
        None,
        description="augmentation of the strong view; default: that of pretraining, with pretrain.method distill that of SimCLR",
    )


class Finetune(RecipePart):
    """Fine-tuning on the label budget, from a linear probe on the encoder (LP-FT) or from a layer of the projection head."""

    train: Literal["all", "last_stage", "head"] = Field(
        "all",
        description="what is trained: all; last_stage: the last stage of the encoder and the layers after it; head: only the layers after the "
        "encoder. The rest keeps its weights and its BatchNorm statistics",
    )
    keep_projection_layers: int = Field(
        0, ge=0, description="first layers of the projection head that are kept: 0 in SimCLR v1, 1 in v2; never all"
    )
    epochs: Epochs = epochs_field("finetune")
    steps: int | None = steps_field("finetune")
    batch_size: int = Field(256, ge=2)
    # SimCLR v2 fine-tunes with LARS on 12,811 images; a budget of a few hundred images has too few steps for LARS.
    optimizer: Optimizer = Optimizer(name="adamw", lr=1e-3, scale_lr=False, weight_decay=1e-4)
    # Only random crop and flip, as in SimCLR v2 (section 3), but milder crops: on small images, crops of 8 % lose the object.
    augmentation: Augmentation = Augmentation(crop_scale=(0.4, 1.0), jitter=0.0, gray=0.0, blur=0.0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    linear_first: bool = Field(
        True,
        description="start from a linear probe on the frozen encoder instead of a zero last layer (LP-FT, Kumar et al. 2022)",
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="layer-wise decay: learning rate of a block as a share of that of the next block; 1: the same for all",
    )
    freeze_batchnorm: bool = Field(False, description="keep the BatchNorm statistics of pretraining")
    ema: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="decay of the exponential moving average of the weights, which is stored as the teacher; 0: store the last weights",
    )
    consistency: Consistency = Field(
        Consistency(), description="pseudo-labels of the pool, in addition to the label budget"
    )
    fallback: bool = Field(
        True,
        description="store the frozen encoder with its linear probe as the teacher if it is better than the fine-tuned network: on the probe set; "
        "without a probe set, if the two disagree on more than twice the share of images that the linear probe gets wrong",
    )


class Multilabel(RecipePart):
    """How classifiers with any number of classes an image learn from labels. Only with `task: multilabel`."""

    loss: Literal["bce", "asymmetric"] = Field(
        "bce",
        description="bce: binary cross-entropy; asymmetric: it counts easy negatives less (ASL, Ridnik et al. 2021, equation 7)",
    )
    gamma_negative: float = Field(
        4.0, ge=0, description="asymmetric: focusing of the classes that are not there; 4 in the paper"
    )
    gamma_positive: float = Field(
        0.0, ge=0, description="asymmetric: focusing of those that are there; 0 in the authors' recipes"
    )
    clip: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="asymmetric: probability below which a class that is not there counts nothing; 0.05 in the paper",
    )


class TeacherSource(RecipePart):
    """A teacher: the fine-tuned model of the run, a model of another run, or a network of the user."""

    model: Text = Field(
        "own",
        description="own: the fine-tuned model of this run; folder of a run: its fine-tuned model; folder of a stage (runs/NAME/distill): its "
        "model; timm:NAME or torchvision:NAME with the weights of such a classifier; module:factory: a function without arguments that returns a "
        "network from images to logits",
    )
    weights: Text | None = Field(
        None,
        description="of module:factory, timm:NAME or torchvision:NAME: file of the weights, safetensors or a torch state dict, loaded strictly; "
        "for timm and torchvision also `pretrained`",
    )
    weights_key: Text | None = Field(
        None,
        description="key of the weights in a file that holds several; default: those that fit, an average (EMA) first",
    )
    mean: Normalization | None = Field(
        None,
        description="of the same: mean that its images are normalized with, one number or three; default: of module:factory data.mean, else the "
        "network's own",
    )
    std: Normalization | None = Field(
        None,
        description="of the same: standard deviation, one number or three, greater than 0",
    )
    image_size: Annotated[ImageSize, SizeBounds(LEAST_SIDE, 2048)] | None = Field(
        None,
        description="of the same: size of the images that it sees, in pixels, a side or [height, width], resized from those of "
        "data.image_size; default data.image_size",
    )

    @property
    def library(self) -> tuple[str, str] | None:
        """Library and name of `timm:NAME` or `torchvision:NAME`, or None."""
        return library_of(self.model)

    @property
    def factory(self) -> tuple[str, str] | None:
        """Module and function of `module:factory`, or None."""
        return factory_of(self.model)

    @model_validator(mode="after")
    def _check(self) -> TeacherSource:
        if self.library is not None and self.weights is None:
            raise ValueError(f"weights is missing: name the file of the weights of {self.model}, or write pretrained")
        if self.factory is not None and self.weights is None:
            raise ValueError(
                f"weights is missing: {self.model} builds a network without weights; name the file of its weights"
            )
        keys = ("weights", "weights_key", "mean", "std", "image_size")
        set_keys = [name for name in keys if getattr(self, name) is not None]
        if self.factory is None and self.library is None and set_keys:
            raise ValueError(
                f"{set_keys[0]} is only for a network of your own (module:factory); {self.model} has its own: remove {set_keys[0]}"
            )
        check_std(self.std)
        return self


class Distill(RecipePart):
    """Distillation of the teacher into the student on the unlabeled pool (SimCLR v2, equations 2 and 3)."""

    student: Architecture = Architecture(name="resnet18", width=0.5)
    start: Literal["auto", "encoder", "new"] = Field(
        "auto",
        description="weights that the student starts from: encoder: those of the pretrained encoder, which must be the same network; new: random "
        "ones, or those of student.weights; auto: encoder where it is the same network and started from weights or was taught by another "
        "encoder, else new",
    )
    teachers: list[TeacherSource] = Field(
        [TeacherSource()],
        description="list of {model: own, a run's folder or module:factory}; several are averaged: the mean of their softened probabilities",
    )
    images: Literal["unlabeled", "labeled", "both"] = Field(
        "unlabeled",
        description="images to distill on: the pool, the label budget, or both: the pool and the images of the label budget that it lacks",
    )
    loss: Literal["kd", "dkd", "feature"] = Field(
        "kd",
        description="kd: soft cross-entropy (Hinton et al. 2015); dkd: decoupled (Zhao et al. 2022), the target of an unlabeled image is the "
        "teacher's top class; feature: kd plus regression of the teacher's embedding (FitNets, Romero et al. 2015)",
    )
    temperature: float = Field(
        1.0, gt=0, description="temperature of teacher and student; the loss is multiplied by its square"
    )
    dkd_alpha: float = Field(1.0, ge=0, description="dkd: weight of the target-class term; 1 in the paper")
    dkd_beta: float = Field(
        8.0,
        ge=0,
        description="dkd: weight of the term of the other classes; in the paper 8 on CIFAR-100 (temperature 4), 0.5 on ImageNet (temperature 1)",
    )
    feature_weight: float = Field(1.0, gt=0, description="feature: weight of the mean squared error of the embedding")
    labeled_weight: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the supervised loss on the label budget (1 - alpha in equation 3); 0: distillation alone (equation 2)",
    )
    mixup: float = Field(
        0.5,
        ge=0,
        le=0.5,
        description="each image is mixed with another one, whose share is random between 0 and this value; teacher and student see the same "
        "mixture (Beyer et al. 2022); 0: no mixing",
    )
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay of the exponential moving average of the weights, which is stored as the student (0.999); 0: store the last weights",
    )
    epochs: Epochs = epochs_field("distill")
    steps: int | None = steps_field("distill")
    batch_size: int = Field(512, ge=2)
    optimizer: Optimizer = Optimizer(name="lars", lr=0.3, weight_decay=1e-6, warmup=0.05)
    augmentation: Augmentation = Augmentation(crop_scale=(0.4, 1.0), jitter=0.0, gray=0.0, blur=0.0)

    @model_validator(mode="after")
    def _check(self) -> Distill:
        if not self.teachers:
            raise ValueError("teachers is empty, accepted: a list of {model: own, a run's folder or module:factory}")
        return self


class Supervised(RecipePart):
    """The baseline: the student's architecture, trained from scratch on the same label budget."""

    enabled: bool = True
    search: bool = Field(
        True,
        description="also try no crops, mild crops, and three times the epochs, and keep the best on the probe set; all together see no more "
        "images than pretraining; false, or without a probe set: only the settings given here",
    )
    epochs: Epochs = epochs_field("supervised")
    steps: int | None = steps_field("supervised")
    batch_size: int = Field(128, ge=2)
    optimizer: Optimizer = Optimizer(name="sgd", lr=0.1, weight_decay=5e-4, warmup=0.05)
    augmentation: Augmentation = Augmentation(jitter=0.0, gray=0.0, blur=0.0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)


class Hardware(RecipePart):
    """Where and how the training runs; it changes results by rounding only."""

    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="auto: bf16 autocast on GPUs and CPUs with native bf16 (avx512_bf16, AMX, Arm BF16), else fp32",
    )
    devices: int = Field(
        1, ge=1, description="GPUs (or CPU processes) per machine; batch_size is the batch of all devices together"
    )
    nodes: int = Field(
        1, ge=1, description="number of machines; start the same command on each, with torchrun or SLURM"
    )
    sync_batchnorm: bool = Field(
        True,
        description="with several devices: BatchNorm over the whole batch instead of over the share of each device",
    )
    compile: bool = Field(
        False,
        description="compile the encoder with torch.compile: takes minutes at the start, then steps are faster on GPUs",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads per process; default: chosen by PyTorch")
    checkpoint_seconds: float = Field(
        30.0,
        ge=0,
        description="seconds between two checkpoints; an interrupted training resumes from the last one, to the same weights (on CPUs bit for bit)",
    )


class Monitor(RecipePart):
    """What is measured during pretraining; the weights do not depend on it, so a change retrains nothing."""

    every: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="epochs between two evaluations of the frozen encoder on the test set; auto: a quarter of the epochs; 0: only at the end",
    )
    knn: bool = Field(
        True, description="measure the accuracy of weighted k nearest neighbors, with the probe set as the bank"
    )
    linear: bool = Field(
        False, description="measure the accuracy of a linear probe, trained on the probe set (slower than kNN)"
    )
