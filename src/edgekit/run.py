"""The run: one folder that holds a recipe and the results of each stage.

    runs/NAME/{recipe.yaml, data/, pretrain/, finetune/, distill/, supervised/, evaluate/, export/, bench/, report.html}

When a stage is complete, its folder holds `stage.json` (a `StageRecord`) and the files that the record lists; other files are
ignored. This module defines the layout and reads it; training writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgekit import recipe as recipes
from edgekit.arguments import checked
from edgekit.errors import RunError
from edgekit.files import digest_of, sha256, write_json
from edgekit.foreign import Unreadable, read_json
from edgekit.recipe import Recipe
from edgekit.spelling import translated, translated_keys
from edgekit.stages import MODEL_OF, STAGES

if TYPE_CHECKING:
    from typing_extensions import Self  # of `typing` from Python 3.11 on


def classifier_stages(recipe: Recipe) -> list[str]:
    """Return the stages of a recipe that train a classifier, in order."""
    return [stage for stage in MODEL_OF if stage != "supervised" or recipe.supervised.enabled]


def with_todays_names(inputs: dict[str, Any], digest: Any) -> dict[str, Any]:
    """Return `inputs` and `digest` of a stage, with today's names in the inputs.

    Args:
        inputs: what a stage was made from, as any version wrote it.
        digest: of these inputs; a digest of other inputs is returned unchanged.
    """
    renamed = translated(inputs)
    digest_matches = renamed != inputs and digest == digest_of(inputs)
    return {"inputs": renamed, "digest": digest_of(renamed) if digest_matches else digest}


class StageRecord(BaseModel):
    """The inputs and outputs of a complete stage."""

    model_config = ConfigDict(extra="forbid")

    stage: str
    inputs: dict[str, Any] = Field(
        description="everything that the outputs depend on: parts of the recipe, digests of images and of earlier weights"
    )
    digest: str = Field(description="SHA-256 of `inputs` in canonical JSON")
    outputs: dict[str, str] = Field(description="file name in the folder of the stage -> SHA-256")
    metrics: dict[str, Any] = Field(default_factory=dict)
    seconds: float = Field(0.0, ge=0, allow_inf_nan=False)
    created: str = ""
    packages: dict[str, str] = Field(default_factory=dict)

    @property
    def weights(self) -> str | None:
        """SHA-256 of the trained weights; None for the stage data."""
        return self.outputs.get("model.safetensors")

    @property
    def stored_probe(self) -> bool:
        """Of a fine-tuning: whether it stored the linear probe on the frozen encoder in place of the fine-tuned network."""
        choice = self.metrics.get("choice")
        return isinstance(choice, dict) and choice.get("left") == "frozen"

    @property
    def image_digests(self) -> dict[str, str]:
        """Of the stage data: a digest of the pool, the labeled, the probe and the test images."""
        digests = self.inputs.get("digests")
        return digests if isinstance(digests, dict) else {}

    @model_validator(mode="before")
    @classmethod
    def _earlier_names(cls, content: Any) -> Any:
        """Translate a record of an earlier version to today's names; its digest is renewed only if it matched the inputs."""
        if not isinstance(content, dict):
            return content
        inputs, metrics = content.get("inputs"), content.get("metrics")
        if isinstance(metrics, dict):
            content = {**content, "metrics": translated_keys(metrics)}
        return {**content, **with_todays_names(inputs, content.get("digest"))} if isinstance(inputs, dict) else content


def scored_digests(records: Mapping[str, StageRecord]) -> dict[str, str]:
    """Return what an evaluation depends on: SHA-256 of the weights of each stage, and `test`, a digest of the test images.

    Args:
        records: of complete stages, by name.
    """
    found = {stage: record.weights for stage, record in records.items()}
    if "data" in records:
        found["test"] = records["data"].image_digests.get("test")
    return {name: digest for name, digest in found.items() if digest is not None}


class RunFolder:
    """A run's folder: where its recipe and its stages lie. `edgekit.Run` is one that also opens the networks.

    Args:
        path: the folder; it need not exist yet.
    """

    @checked()
    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        complete = [stage for stage in STAGES if (self.stage_path(stage) / "stage.json").is_file()]
        return f"<{type(self).__name__} {self.path}: {', '.join(complete) or 'no stage'} complete>"

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open an existing run.

        Raises:
            RunError: there is no such folder, it is a file, or it holds no recipe.
        """
        run = cls(path)
        if run.path.is_file():
            raise RunError(f"{run.path}: a file, not a run", "give the folder that `edgekit train` printed")
        if not run.path.is_dir():
            raise RunError(f"{run.path}: no such run", "train one with `edgekit train recipe.yaml`")
        if not run.recipe_path.is_file():
            raise RunError(
                f"{run.path}: is not a run: it holds no recipe.yaml", "give the folder that `edgekit train` printed"
            )
        return run

    @property
    def recipe_path(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def recipe(self) -> Recipe:
        """The run's recipe, validated."""
        return recipes.load(self.recipe_path)

    def stage_path(self, stage: str) -> Path:
        return self.path / stage

    def record(self, stage: str) -> StageRecord | None:
        """Return the record of a complete stage, or None if the stage is not complete.

        Raises:
            RunError: the record exists but is damaged.
        """
        path = self.stage_path(stage) / "stage.json"
        if not path.is_file():
            return None
        try:
            return StageRecord.model_validate(read_json(path))
        except (Unreadable, ValidationError) as error:
            raise RunError(
                f"{path}: damaged: not a valid stage record", f"delete {path.parent} to train the stage again"
            ) from error

    def require(self, stage: str) -> StageRecord:
        """Return the record of a complete stage, after comparing its files with their digests.

        Raises:
            RunError: the stage is not complete, or one of its files is missing or changed.
        """
        record = self.record(stage)
        if record is None:
            raise RunError(
                f"{self.path}: the stage {stage} is not complete",
                f"run `edgekit train {self.recipe_path} --run {self.path}`",
            )
        self.check_outputs(record)
        return record

    def check_outputs(self, record: StageRecord) -> None:
        """Compare the files of a stage with their digests.

        Raises:
            RunError: a file is missing or changed.
        """
        for name, digest in record.outputs.items():
            path = self.stage_path(record.stage) / name
            if not path.is_file():
                raise RunError(f"{path}: missing", f"delete {path.parent} to train the stage again")
            if sha256(path) != digest:
                raise RunError(
                    f"{path}: damaged: its digest differs from the recorded one",
                    f"delete {path.parent} to train the stage again",
                )

    def write_record(
        self,
        stage: str,
        inputs: dict[str, Any],
        outputs: list[str],
        metrics: dict[str, Any],
        seconds: float,
        created: str,
        packages: dict[str, str],
    ) -> StageRecord:
        """Write the record that makes a stage complete; `outputs` are names of files in its folder."""
        folder = self.stage_path(stage)
        record = StageRecord(
            stage=stage,
            inputs=inputs,
            digest=digest_of(inputs),
            outputs={name: sha256(folder / name) for name in outputs},
            metrics=metrics,
            seconds=seconds,
            created=created,
            packages=packages,
        )
        write_json(folder / "stage.json", record.model_dump(mode="json"))
        return record


Run = RunFolder  # its name in the rooms that know no other
