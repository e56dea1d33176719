"""The parts of a recipe that are not a pretraining method: data, augmentation, optimizer, networks, the later stages, the machine.

Every default is a paper's or says why not.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgekit.pixel_range import PixelRange, check_pixel_range
from edgekit.preprocess import MAX_PIXELS, Preprocessing
from edgekit.recipe.bounds import BOUNDS

TORCHVISION = "torchvision:"  # before the name of one of torchvision's sets
SMALL_IMAGE = 64  # at or below this size, the CIFAR settings of SimCLR (appendix B.9) are the defaults


class RecipePart(BaseModel):
    """A part of the recipe: no unknown keys, no change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_booleans(cls, content: Any) -> Any:
        """Python counts True as the number 1, so that `labels: yes` would be one label a class."""
        for name, value in content.items() if isinstance(content, dict) else ():
            field = cls.model_fields.get(name)
            allowed = (field.annotation, *get_args(field.annotation)) if field is not None else (bool,)
            if isinstance(value, bool) and field is not None and bool not in allowed:
                raise ValueError(f"{name} must not be {str(value).lower()}, accepted: {field.description or 'a value'}")
        return content


Text = Annotated[str, Field(min_length=1)]


def default_test(labeled: object) -> str | float:
    """`data.test` where the recipe leaves it out: a share, or the own test split of a set of torchvision."""
    if isinstance(labeled, str) and labeled.startswith(TORCHVISION):
        return f"{TORCHVISION}{labeled.split(':')[1]}"
    return 0.2


class LabelCount(RecipePart):
    """A label budget of so many images a class, with a word on the classes that have fewer."""

    per_class: int = Field(ge=1, description="labeled images of each class")
    at_most: bool = Field(False, description="true: a class that has fewer gives what it has; false: it is refused")


class DataConfig(RecipePart):
    """Where the images are and who may see which."""

    labeled: Text | None = Field(
        "digits",
        description="folder with one sub-folder a class, WebDataset shards (`train-{000..099}.tar`, a glob or a folder of them), Parquet tables "
        "(a file, a glob or a folder), a set of torchvision (`torchvision:CIFAR10`), or `digits` (shipped with scikit-learn); null: `pool` "
        "holds all images, and `labels` is a CSV file that names the class of some, or nothing is labeled yet",
    )
    pool: Text | None = Field(
        None,
        description="unlabeled images: a folder, flat or nested, or whatever `labeled` may be; "
        "without it, the labeled images without their labels",
    )
    test: Text | Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2,
        description="whatever `labeled` may be, or the share of `labeled` that is held out, class-balanced; "
        "default 0.2, for a set of torchvision its own test split; where `labeled` is null, the share of `pool` that training never sees, and "
        "whose labels in the CSV file make the test set",
    )
    probe: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of `labeled` kept out of pool and budget: bank of the kNN, training of the linear probe",
    )
    labels: int | float | Text | LabelCount = Field(
        0.1,
        description="label budget: a fraction (0.01), a count a class (20), {per_class: 20, at_most: true} where a rare class may give "
        "fewer, or a CSV file with the column `file` (relative to `labeled`); where `labeled` is null, a CSV file with the columns `file` "
        "(relative to `pool`) and `class`",
    )
    label_seed: int = Field(0, ge=0, description="seed of the draw of the label budget, alone")
    split_seed: int = Field(0, ge=0, description="seed of the draw of the test and probe sets")
    image_size: int = Field(32, ge=4, le=1024, description="side of the square that the models take, in pixels")
    resize_to: int | None = Field(
        None,
        ge=4,
        le=2048,
        description="shorter side before the center crop; default image_size up to 64 px, 8/7 of it above (256/224)",
    )
    fit: Literal["crop", "stretch"] = Field(
        "crop", description="crop: keep the shape, cut the center out; stretch: squash to the square"
    )
    interpolation: Literal["bilinear", "bicubic", "lanczos"] = "bilinear"
    mean: float = Field(
        0.5, description="pixels in [0, 1] are normalized as (x - mean) / std; one scalar, which INT8 runtimes fuse"
    )
    std: float = Field(0.25, gt=0)
    max_skipped: float = Field(0.01, ge=0, le=1, description="share of unreadable files above which the run is refused")
    pixel_range: PixelRange | Literal["auto"] = Field(
        "auto",
        description="images of more than 8 bits: [LOW, HIGH], which become the gray levels 0 and 255; dtype: what the number type holds "
        "([0, 65535] of whole numbers, [0, 1] of floats); auto: found from all images of `labeled` and `pool`",
    )
    max_pixels: int = Field(
        MAX_PIXELS,
        ge=1,
        description="images of more pixels than this count as unreadable; a JPEG of more than 100 million is decoded at a reduced size",
    )
    stream: bool | Literal["auto"] = Field(
        "auto",
        description="true: decode the pool while training, and keep nothing of it; false: decode it once, into the cache or the memory; "
        "auto: only where neither the disk nor the memory holds it; no weight depends on it",
    )
    image_column: Text = Field("image", description="Parquet tables: column of the encoded images")
    label_column: Text = Field("label", description="column of a table, or key of a shard's .json members: the class")
    class_names: Text | None = Field(
        None, description="shards and tables with numbers for labels: text file whose line i (from 0) names class i"
    )
    torchvision_root: Text | None = Field(
        None, description="folder that torchvision's sets lie in; default torchvision/ in the cache"
    )
    download: bool = Field(False, description="let torchvision download the set where it is not there")

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if self.resize_to is not None and self.resize_to < self.image_size:
            raise ValueError(f"resize_to ({self.resize_to}) must be at least image_size ({self.image_size})")
        check_pixel_range(self.pixel_range)
        if self.labeled is None and (self.pool is None or not isinstance(self.test, float)):
            raise ValueError(
                "labeled is null, so pool must name all images and test must be the share of them that is kept for testing (0.1)"
            )
        if isinstance(self.labels, float) and not 0 < self.labels <= 1:
            raise ValueError(
                f"labels ({self.labels}) must be a fraction in (0, 1], a whole number of images a class, or a CSV file"
            )
        if isinstance(self.labels, int) and self.labels < 1:
            raise ValueError(f"labels ({self.labels}) must be at least 1 image a class")
        if self.labeled is not None and isinstance(self.test, float) and self.test + self.probe >= 1:
            raise ValueError(
                f"test ({self.test:g}) and probe ({self.probe:g}) must leave images to train on: together less than 1"
            )
        return self

    def preprocessing(self, found: PixelRange | None = None) -> Preprocessing:
        """How an image becomes the square that the models take, in evaluation and on the device.

        Args:
            found: the range of the data set, which counts where `pixel_range` is auto.
        """
        resize_to = self.resize_to or (
            self.image_size if self.image_size <= SMALL_IMAGE else round(self.image_size * 8 / 7)
        )
        return Preprocessing(
            image_size=self.image_size,
            resize_to=resize_to,
            fit=self.fit,
            interpolation=self.interpolation,
            pixel_range=found if self.pixel_range == "auto" else self.pixel_range,
        )


Transformation = Literal["crop", "cutout", "color", "sobel", "noise", "blur", "rotate", "flip", "jitter", "gray"]


class Augmentation(RecipePart):
    """SimCLR's family (Chen et al. 2020, figure 4 and appendix A), random for each image; a probability of 0 switches a part off."""

    crop: float = Field(
        1.0,
        ge=0,
        le=1,
        description="probability of a random crop, resized to the image's size; else the central square",
    )
    crop_scale: tuple[float, float] = Field((0.08, 1.0), description="area of the crop as a share of the image's")
    crop_ratio: tuple[float, float] = Field((3 / 4, 4 / 3), description="aspect ratio of the crop")
    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    rotate: float = Field(0.0, ge=0, le=1, description="probability of a rotation by 90, 180 or 270 degrees")
    jitter: float = Field(0.8, ge=0, le=1, description="probability of the color jitter")
    strength: float | None = Field(
        None,
        ge=0,
        le=2,
        description="SimCLR's s: brightness, contrast, saturation 0.8 s and hue 0.2 s; default 0.5 up to 64 px (appendix B.9), 1.0 above",
    )
    gray: float = Field(0.2, ge=0, le=1, description="probability of dropping the color")
    blur: float | None = Field(
        None,
        ge=0,
        le=1,
        description="probability of the Gaussian blur (kernel 10 % of the side); default 0 up to 64 px, 0.5 above",
    )
    blur_sigma: tuple[float, float] = Field((0.1, 2.0), description="standard deviation of the blur, in pixels")
    sobel: float = Field(0.0, ge=0, le=1, description="probability of the Sobel filter (length of the gradient)")
    noise: float = Field(0.0, ge=0, le=1, description="probability of Gaussian noise")
    noise_std: float = Field(
        0.1, gt=0, le=1, description="standard deviation of the noise, of pixels in [0, 1] (torchvision's default)"
    )
    cutout: float = Field(0.0, ge=0, le=1, description="probability of cutting out a square")
    cutout_side: float = Field(
        0.5, gt=0, le=1, description="side of that square as a share of the view's (DeVries & Taylor 2017: 16 of 32 px)"
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

    def at(self, image_size: int) -> Augmentation:
        """The same with the defaults that depend on the image size filled in."""
        small = image_size <= SMALL_IMAGE
        return self.model_copy(
            update={
                "strength": self.strength if self.strength is not None else (0.5 if small else 1.0),
                "blur": self.blur if self.blur is not None else (0.0 if small else 0.5),
            }
        )


class Optimizer(RecipePart):
    """The optimizer and its schedule: linear warm-up, then cosine decay to 0 (both by step)."""

    name: Literal["lars", "sgd", "adamw"] = "lars"
    lr: float = Field(0.3, gt=0, description="base learning rate; multiplied by batch_size / 256 where `scale_lr`")
    scale_lr: bool = Field(
        True, description="linear scaling of the learning rate with the batch size (Goyal et al. 2017)"
    )
    weight_decay: float = Field(1e-6, ge=0, description="not applied to biases and normalization")
    momentum: float = Field(0.9, ge=0, lt=1, description="of lars and sgd")
    warmup: float = Field(0.0, ge=0, le=0.9, description="share of the stage's steps in which the learning rate rises")
    warmup_epochs: float | None = Field(
        None, ge=0, description="the same in epochs; where it is given, it counts instead of `warmup`"
    )


Epochs = Annotated[int, Field(ge=1)] | Literal["auto"]
_EPOCHS = "how often the images are seen; auto: as often as makes `steps` steps of them, and at least {0} epochs{1}"


def epochs_field(stage: str) -> Any:
    """The field `epochs` of a stage, which says what auto is bounded by."""
    bounds = BOUNDS[stage]
    most = f", at most {bounds.high}" if bounds.high else ""
    return Field("auto", description=_EPOCHS.format(bounds.low, most))


def steps_field(stage: str) -> Any:
    """The field `steps` of a stage."""
    steps = BOUNDS[stage].steps
    return Field(
        None,
        ge=1,
        description=f"with `epochs: auto`, so many steps at least, and no other bound; left out: {steps:,} and the bounds of `epochs`",
    )


class Architecture(RecipePart):
    """An image network by name."""

    name: str = Field(
        "resnet18", description="any of torchvision or timm; `torchvision:` or `timm:` before the name settles which"
    )
    width: float = Field(
        1.0, ge=0.125, le=4, description="ResNets only: multiplier of the channels of the stem and of every stage"
    )
    stem: Literal["auto", "cifar", "strided", "imagenet"] = Field(
        "auto",
        description="ResNets only: cifar is a 3x3 convolution of stride 1 and no max-pool, strided the same with stride 2 "
        "(a quarter of the work), imagenet 7x7 with both; auto is cifar up to 64 px, imagenet above",
    )
    selective_kernels: bool = Field(
        False,
        description="resnet50 and its like only: SimCLR v2's selective kernels, with ResNet-D's stem and shortcuts",
    )
    patch_size: int | None = Field(
        None, ge=1, le=64, description="timm's ViTs only: side of the patches in pixels; default the one in the name"
    )
    weights: Text | None = Field(
        None,
        description="file to start from, safetensors or a torch state dict; loaded strictly, the classifier in it is left out",
    )
    weights_key: Text | None = Field(
        None,
        description="which weights of a checkpoint that holds several, for instance state_dict or teacher; default those that fit, their "
        "average over training (EMA) first",
    )

    @model_validator(mode="after")
    def _key_of_a_file(self) -> Architecture:
        if self.weights_key is not None and self.weights is None:
            raise ValueError(f"weights_key is {self.weights_key}, but weights names no file")
        return self


class Consistency(RecipePart):
    """Pseudo-labels of the pool: a weak view decides, a strong view of the same image learns (FixMatch, Sohn et al. 2020)."""

    enabled: bool = True
    images: int = Field(256, ge=2, description="images of the pool in a step, beside the labeled ones")
    weight: float = Field(1.0, gt=0, description="of the loss on pseudo-labels; 1 in FixMatch on CIFAR-10")
    threshold: Annotated[float, Field(ge=0, lt=1)] | Literal["adaptive"] = Field(
        0.95,
        description="confidence from which a pseudo-label counts; adaptive: what the model's own confidence makes of it, for each class "
        "(FreeMatch, Wang et al. 2023)",
    )
    align: Literal["labels", "start", "none"] = Field(
        "labels",
        description="the classes' shares that the pseudo-labels are drawn toward (ReMixMatch): labels: the label budget's; start: those that "
        "the model gives the pool before it is fine-tuned; none: their own",
    )
    max_drift: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of the pseudo-labels that may move to other classes than before the fine-tuning; beyond it, the rest is trained "
        "on the labels alone",
    )
    max_gap: float = Field(
        0.5,
        gt=0,
        le=1,
        description="on the probe set: confidence minus accuracy of the images that would count as pseudo-labels, and difference between the "
        "share of them and that of the pool; beyond it (95 % interval), the rest is trained on the labels alone",
    )
    augmentation: Augmentation | None = Field(None, description="of the strong view; default that of pretraining")


class Finetune(RecipePart):
    """Fine-tuning on the label budget from the linear probe on the encoder (LP-FT), or from the middle of the projection head."""

    keep_projection_layers: int = Field(
        0, ge=0, description="layers of the projection head that stay; 0: none (SimCLR v1), 1: v2, never all"
    )
    epochs: Epochs = epochs_field("finetune")
    steps: int | None = steps_field("finetune")
    batch_size: int = Field(256, ge=2)
    # SimCLR v2 fine-tunes with LARS on 12,811 images; a budget of some hundred has too few steps for it.
    optimizer: Optimizer = Optimizer(name="adamw", lr=1e-3, scale_lr=False, weight_decay=1e-4)
    # Random crop and flip alone, as SimCLR v2 (section 3) has it, but milder crops: on small images those of 8 % lose the object.
    augmentation: Augmentation = Augmentation(crop_scale=(0.4, 1.0), jitter=0.0, gray=0.0, blur=0.0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    linear_first: bool = Field(
        True,
        description="start from the linear probe on the frozen encoder, not from a zero last layer (LP-FT, Kumar et al. 2022)",
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="learning rate of a layer as a share of that of the layer after it; 1: the same for all",
    )
    freeze_batchnorm: bool = Field(False, description="keep BatchNorm's statistics as pretraining left them")
    ema: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="the stored teacher is the exponential moving average of the weights; 0: the last ones",
    )
    consistency: Consistency = Field(Consistency(), description="pseudo-labels of the pool, beside the label budget")
    fallback: bool = Field(
        True,
        description="leave the frozen encoder with its linear probe where that is the better classifier of the two: on the probe set, which "
        "teaches no network anything; without one, where the two disagree on more of the pool than the probe errs on, twice",
    )


Normalization = float | tuple[float, float, float]


class TeacherSource(RecipePart):
    """A teacher: the run's own, one of another run, or a network of the user's."""

    model: Text = Field(
        "own",
        description="own: the run's fine-tuned model; a run's folder: its fine-tuned model; a stage's folder (runs/NAME/distill): that "
        "model; module:factory: a function without arguments that gives a network from images to logits",
    )
    weights: Text | None = Field(
        None,
        description="of a factory's network: file of its weights, safetensors or a torch state dict, loaded strictly",
    )
    weights_key: Text | None = Field(
        None,
        description="which weights of that file, where it holds several; default those that fit, their average (EMA) first",
    )
    mean: Normalization | None = Field(
        None,
        description="of a factory's network: what its images are normalized with, one number or three; default data.mean",
    )
    std: Normalization | None = Field(None, description="one number or three, greater than 0; default data.std")

    @property
    def factory(self) -> tuple[str, str] | None:
        """Module and name of a factory, or None."""
        found = re.fullmatch(r"([A-Za-z_][\w.]*):([A-Za-z_][\w.]*)", self.model)
        return (found[1], found[2]) if found else None

    @model_validator(mode="after")
    def _check(self) -> TeacherSource:
        if self.factory is not None and self.weights is None:
            raise ValueError(f"weights is missing: {self.model} builds the network, a file of weights fills it")
        given = [name for name in ("weights", "weights_key", "mean", "std") if getattr(self, name) is not None]
        if self.factory is None and given:
            raise ValueError(f"{given[0]} is for a network of your own (module:factory); {self.model} brings its own")
        stds = self.std if isinstance(self.std, tuple) else (self.std,)
        if any(std is not None and std <= 0 for std in stds):
            raise ValueError(f"std ({self.std}) must be greater than 0")
        return self


class Distill(RecipePart):
    """Distillation of the teacher into the student on the unlabeled pool (SimCLR v2, equations 2 and 3)."""

    student: Architecture = Architecture(name="resnet18", width=0.5)
    teachers: list[TeacherSource] = Field(
        [TeacherSource()],
        description="list of {model: own, a run's folder or module:factory}; of several, the mean of the softened probabilities counts",
    )
    images: Literal["unlabeled", "labeled", "both"] = Field(
        "unlabeled",
        description="what is distilled on: the pool, the label budget, or the pool with the label budget added where it is not in it",
    )
    loss: Literal["kd", "dkd", "feature"] = Field(
        "kd",
        description="kd: soft cross-entropy (Hinton et al. 2015); dkd: decoupled (Zhao et al. 2022), with the teacher's first choice where "
        "there is no label; feature: kd and a regression of the teacher's embedding (FitNets, Romero et al. 2015)",
    )
    temperature: float = Field(1.0, gt=0, description="of teacher and student; the loss is multiplied by its square")
    dkd_alpha: float = Field(1.0, ge=0, description="dkd: weight of the target class's part; 1 in the paper")
    dkd_beta: float = Field(
        8.0,
        ge=0,
        description="dkd: weight of the other classes' part; 8 on CIFAR-100 (with temperature 4), 0.5 on ImageNet (1)",
    )
    feature_weight: float = Field(
        1.0, gt=0, description="feature: weight of the embedding's mean squared error, beside kd"
    )
    labeled_weight: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the supervised loss on the label budget (1 - alpha in equation 3); 0 is equation 2",
    )
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="0.999, say: the stored student is the exponential moving average of the weights; 0: the last ones",
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
    """The student's architecture trained from scratch on the same label budget: what the run must beat."""

    enabled: bool = True
    search: bool = Field(
        True,
        description="also without crops, with mild ones, and three times as long, while all together see no more images than the "
        "pretraining; kept is what the probe set says; false, or no probe set: only as written here",
    )
    epochs: Epochs = epochs_field("supervised")
    steps: int | None = steps_field("supervised")
    batch_size: int = Field(128, ge=2)
    optimizer: Optimizer = Optimizer(name="sgd", lr=0.1, weight_decay=5e-4, warmup=0.05)
    augmentation: Augmentation = Augmentation(jitter=0.0, gray=0.0, blur=0.0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)


class Hardware(RecipePart):
    """Where and how the training runs; no result depends on it but through rounding."""

    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="auto: bf16 autocast on GPUs and CPUs that compute it natively (avx512_bf16, AMX, Arm's BF16), else fp32",
    )
    devices: int = Field(
        1, ge=1, description="GPUs (or CPU processes) a machine; batch_size is the batch of all of them together"
    )
    nodes: int = Field(1, ge=1, description="machines; start the same command on each with torchrun or SLURM")
    sync_batchnorm: bool = Field(
        True, description="with several devices: BatchNorm over the whole batch, not over each device's share"
    )
    compile: bool = Field(False, description="torch.compile the step: minutes at the start, faster steps on GPUs")
    threads: int | None = Field(None, ge=1, description="CPU threads of each process; default PyTorch's choice")
    checkpoint_seconds: float = Field(
        30.0,
        ge=0,
        description="seconds between two checkpoints; training goes on from the last one, to the same weights (on the CPU, bit for bit)",
    )


class Monitor(RecipePart):
    """What is measured while the encoder is pretrained; no weight depends on it, so that a change trains nothing again."""

    every: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="epochs between two evaluations of the frozen encoder on the test set; auto: a quarter of all; 0: only at the end",
    )
    knn: bool = Field(True, description="weighted k-nearest-neighbor accuracy, bank: the probe set")
    linear: bool = Field(False, description="linear probe, trained on the probe set (slower than kNN)")
