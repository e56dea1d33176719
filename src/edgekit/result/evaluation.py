"""What `edgekit evaluate`, `edgekit ablate` and `edgekit transfer` measure: scores of trained models."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgekit.result.part import ResultPart


class Score(ResultPart):
    """One score of one model, with its protocol."""

    model: str = Field(description="encoder, teacher, student, supervised, a variant's id; of a transfer, the weights")
    metric: str = Field(
        pattern=r"^[a-z][a-z0-9_]{0,39}$",
        description="of the run's task, such as top1; of what is read from an encoder's features: knn, linear, centroid, logistic",
    )
    value: float = Field(ge=0, le=1)
    samples: int
    protocol: str
    per_class: dict[str, float] | None = None
    shots: int | None = Field(
        None, description="of a few-shot score: labeled images per class; the value is the mean over draws"
    )
    interval: tuple[float, float] | None = Field(
        None, description="of a few-shot score: 95 % interval of the mean over the draws"
    )


class Advice(ResultPart):
    """One piece of advice on a recipe, from the run's own numbers."""

    rule: str = Field(description="name of the rule that found it")
    finding: str = Field(description="the finding with its numbers, one sentence without a full stop")
    change: str = Field(description="what to change, and to what")


class Difference(ResultPart):
    """The difference in accuracy of two models on the same test images, as the mean over the label draws."""

    first: str
    second: str
    value: float = Field(description="accuracy of the first minus that of the second")
    interval: tuple[float, float] = Field(
        description="95 %, paired bootstrap over images and, if there are several, label draws"
    )
    samples: int = Field(description="test images")
    draws: int = Field(1, description="label draws that both were trained on")
    p_value: float | None = Field(None, description="McNemar's exact test; null for several draws")
    protocol: str

    @property
    def shown(self) -> bool:
        """Whether the difference is significant: 0 is outside the interval, and McNemar's test agrees at 5 %."""
        low, high = self.interval
        return not low <= 0 <= high and (self.p_value is None or self.p_value < 0.05)


class Draw(ResultPart):
    """The accuracies of the models trained on one draw of the label budget."""

    label_seed: int
    run: str = Field(description="its folder")
    values: dict[str, float] = Field(description="model -> top-1 on the test set")


class AnswersFile(ResultPart):
    """The file beside the result with the predictions for every test image; see `edgekit.answers`."""

    file: str
    sha256: str


class WorstImage(ResultPart):
    """A wrong test image with the student's highest confidence."""

    file: str
    truth: str
    predicted: str
    probability: float = Field(description="of the predicted class, after the temperature if there is one")


class ModelCalibration(ResultPart):
    """What a temperature, set on the probe set, does to a classifier's probabilities on the test set (Guo et al. 2017).

    Of a multi-label classifier the calibration error is the class-wise one, and `nll` the binary cross-entropy.
    """

    model: str
    temperature: float = Field(gt=0)
    probe: int = Field(description="images that it was set on")
    samples: int = Field(description="test images that the errors are of")
    ece: tuple[float, float] = Field(
        description="expected calibration error with 15 bins of equal width, before and after"
    )
    nll: tuple[float, float] = Field(description="negative log-likelihood in nats, before and after")


class Evaluation(ResultPart):
    """The scores of a run's models on its test set."""

    kind: Literal["evaluation"] = "evaluation"
    task: str = Field("classification", description="what the models answer")
    run: str
    data: str = Field(description="what the test set is")
    scores: list[Score]
    guessing: float | None = Field(
        None, ge=0, le=1,
        description="accuracy of naming the most frequent class of the test set for every image; null where images have no single class, "
        "and in older results",
    )  # fmt: skip
    classes: list[str] = Field(
        default_factory=list, description="names, in the order of the class numbers in the answers"
    )
    differences: list[Difference] = Field(default_factory=list, description="of the student to the others")
    draws: list[Draw] = Field(default_factory=list, description="empty if the labels were drawn once")
    digests: dict[str, str] = Field(
        default_factory=dict,
        description="SHA-256 of the weights of each stage that was scored, and `test`, a digest of the test images; empty in older results",
    )
    calibrations: list[ModelCalibration] = Field(
        default_factory=list,
        description="of the classifiers; empty where the probe set is too small, and in older results",
    )
    advice: list[Advice] = Field(default_factory=list, description="the most important first")
    answers: AnswersFile | None = None
    worst: list[WorstImage] = Field(default_factory=list, description="in the order of their thumbnails in the answers")

    def difference(self, first: str, second: str) -> Difference | None:
        """Return the difference of two models, or None if it was not measured."""
        return next((d for d in self.differences if (d.first, d.second) == (first, second)), None)

    def value(self, model: str, metric: str) -> float | None:
        """Return one score, or None if it was not measured."""
        return next((s.value for s in self.scores if s.model == model and s.metric == metric), None)


class AblationCell(ResultPart):
    """One training of an ablation."""

    values: list[str] = Field(description="one for each axis, in order")
    run: str = Field(description="its run folder, relative to the ablation's")
    scores: list[Score] = Field(default_factory=list, description="empty if it failed")
    seconds: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="time of its stages, including copied ones; null if it failed"
    )
    error: str | None = None

    def value(self, model: str, metric: str) -> float | None:
        """Return one score, or None if it was not measured."""
        return next((s.value for s in self.scores if (s.model, s.metric) == (model, metric)), None)


class Axis(ResultPart):
    """A key that an ablation changes, and its values."""

    name: str = Field(description="a key of the recipe; first and second: the transformations of one branch, in order")
    values: list[str]


class Ablation(ResultPart):
    """A recipe trained with every combination of values of some keys."""

    kind: Literal["ablation"] = "ablation"
    subject: Literal["augmentations", "values"] = Field(
        description="augmentations: SimCLR's figure 5, where a cell with the same transformation twice applies it once"
    )
    recipe: str = Field(description="its name")
    data: str = Field(description="what the test set is")
    until: str = Field(description="the last stage that was trained")
    axes: list[Axis]
    planned: int = Field(description="number of cells; fewer are listed if it was interrupted")
    cells: list[AblationCell]

    def cell(self, *values: str) -> AblationCell | None:
        """Return the cell of these values, or None if it is not complete."""
        return next((c for c in self.cells if c.values == list(values)), None)

    def metrics(self) -> list[tuple[str, str]]:
        """Return (model, metric) of every score, in the order of the stages."""
        return list(dict.fromkeys((s.model, s.metric) for c in self.cells for s in c.scores))


class TransferSet(ResultPart):
    """The scores of a run's encoder on another labeled data set."""

    name: str
    data: str = Field(description="the folder, as the user wrote it")
    classes: int
    train: int = Field(description="images with labels")
    test: int
    split: str = Field(description="how train and test were divided")
    scores: list[Score] = Field(description="models: encoder, random; fine-tuned, from scratch")

    def value(self, model: str) -> float | None:
        """Return one accuracy, or None if it was not measured."""
        return next((s.value for s in self.scores if s.model == model), None)


class Transfer(ResultPart):
    """The scores of a run's encoder on other labeled data sets, as in SimCLR's table 8."""

    kind: Literal["transfer"] = "transfer"
    run: str
    weights_sha256: str = Field(description="of the pretrained encoder")
    sets: list[TransferSet]
