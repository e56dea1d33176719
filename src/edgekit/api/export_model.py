"""Which model an export takes: one of a run, a network, or a name; and the task that its bundle answers."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit import run as runs
from edgekit.api.runs import Run, opened
from edgekit.errors import ExportError, near
from edgekit.sizes import ImageSize
from edgekit.stages import TRAINED_BY
from edgekit.task_names import ANOMALY, MULTILABEL, RECOGNITION, TASK_NAMES
from edgekit.tasks import DEFAULT
from edgekit.terminal import echo

if TYPE_CHECKING:
    from torch import nn

    from edgekit.export.importers.source import ModelSource

ModelOfRun = Literal["student", "teacher", "supervised", "encoder"]
_ENCODER: ModelOfRun = "encoder"  # it has no classes, so that it can only be exported for recognition
Statistics = str | float | Sequence[float] | None
# Options for models that edgekit did not train; a run has its own values.
OPTIONS_OF_OTHERS = (
    "weights", "weights_key", "classes", "calibrate", "evaluate", "size", "resize", "interpolation", "fit", "resize_rule",
    "pixel_range", "max_pixels", "mean", "std", "channels", "output_name",
)  # fmt: skip


def chosen_task(
    model: nn.Module | runs.Run | Path | str,
    run: Run | None,
    which: ModelOfRun | None,
    task: str | None,
    embedding: bool,
) -> tuple[str, ModelOfRun | None]:
    """Return what the bundle answers, and which model of a run that is; by its recipe, where the caller does not say.

    Args:
        model: to export.
        run: `run_of(model)`.
        which, task, embedding: as the caller says.

    Raises:
        ExportError: there is no such task, or it has no further embedding to give.
    """
    if task is not None and task not in TASK_NAMES:
        hint = near(task, TASK_NAMES) or f"give one of {', '.join(TASK_NAMES)}"
        raise ExportError(f"no such task to export: {task}", hint)
    trained_for = DEFAULT if run is None else run.recipe.task
    if run is not None and task not in (None, RECOGNITION) and (task == MULTILABEL) != (trained_for == MULTILABEL):
        raise ExportError(f"--task {task}: {run.path} was trained for {trained_for}", "leave --task out")
    task = task or trained_for
    if (task == ANOMALY) != (trained_for == ANOMALY):
        what = (
            f"{name_of(model)}: its recipe has task: {trained_for}"
            if run is not None
            else f"{name_of(model)} is no run"
        )
        raise ExportError(f"--task {task}: {what}", f"leave --task out, or train a run with task: {task}")
    if task == ANOMALY and (which is not None or embedding):
        raise ExportError(
            f"--{'embedding' if embedding else f'model {which}'}: a run of task: {ANOMALY} has one model, its detector, and no embedding",
            "leave it out",
        )
    if task == RECOGNITION and embedding:
        raise ExportError("--embedding: the embedding is all that recognition gives", "leave --embedding out")
    if task == RECOGNITION and which is None and run is not None and run.record("distill") is None:
        echo("there is no student, so that the pretrained encoder is exported", err=True)
        which = _ENCODER
    return task, which


def run_of(model: nn.Module | runs.Run | Path | str) -> Run | None:
    """Return the run that a model is given by; None where it is no run.

    Raises:
        RunError: there is no such run.
    """
    if isinstance(model, runs.Run):
        return opened(model)
    if isinstance(model, (str, Path)):
        from edgekit.export.importers.kinds import kind_of

        return opened(model) if kind_of(str(model)) == "run" else None
    return None


def model_source(
    model: nn.Module | runs.Run | Path | str, run: Run | None, which: str | None, calibration_images: int, own: dict[str, Any],
    image_size: ImageSize | None, scratch: Path, task: str = DEFAULT,
) -> ModelSource:  # fmt: skip
    """Return the model to export, at the resolution `image_size` if it is set; checks that do not need torch come first. `run` is `run_of(model)`."""
    if run is not None:
        return _of_run(run, which, calibration_images, own, image_size, task)
    if which is not None:
        raise ExportError(f"--model {which}: {name_of(model)} is not a run", "leave --model out")

    from edgekit.export.importers.import_model import import_model
    from edgekit.export.importers.request import model_request

    if image_size is not None:
        if own["size"] or own["resize"]:
            raise ExportError(
                "--image-size cannot be combined with --size or --resize", "leave those out, or give only --size"
            )
        own = {**own, "size": image_size}
    return import_model(
        model_request(
            name_of(model),
            calibration_images=calibration_images,
            several=task == MULTILABEL,
            **_as_text(own),
            **_module(model),
        ),
        scratch,
    )


def _of_run(
    run: Run,
    which: str | None,
    calibration_images: int,
    own: dict[str, Any],
    image_size: ImageSize | None,
    task: str,
) -> ModelSource:
    set_options = [f"--{name.replace('_', '-')}" for name, value in own.items() if value is not None]
    which = which or "student"
    if task == ANOMALY:
        return _of_detector(run, calibration_images, set_options, image_size)
    if which not in (*TRAINED_BY, _ENCODER):
        raise ExportError(f"{which!r} is not a model of a run", f"give one of {', '.join(TRAINED_BY)}")
    if which == _ENCODER and task != RECOGNITION:
        raise ExportError("the encoder of a run has no classes", "add --task recognition, or export another --model")
    run.require(TRAINED_BY.get(which, "pretrain"))
    if set_options:
        raise ExportError(
            f"{set_options[0]}: {run.path} is a run, which has its own value", f"leave {', '.join(set_options)} out"
        )

    from edgekit.export.importers.runs import from_run
    from edgekit.train.records.inputs import require_current

    return from_run(run, which, calibration_images, require_current, image_size)


def _of_detector(
    run: Run, calibration_images: int, set_options: list[str], image_size: ImageSize | None
) -> ModelSource:
    run.require(ANOMALY)
    if set_options or image_size is not None:
        option = set_options[0] if set_options else "--image-size"
        raise ExportError(
            f"{option}: {run.path} has a detector, which was built for images of its own recipe", f"leave {option} out"
        )
    from edgekit.export.importers.detectors import detector_from_run
    from edgekit.train.records.inputs import require_current

    return detector_from_run(run, calibration_images, require_current)


def name_of(model: nn.Module | runs.Run | Path | str) -> str:
    return str(model) if isinstance(model, (str, Path)) else type(model).__name__


def _module(model: nn.Module | runs.Run | Path | str) -> dict[str, Any]:
    """Return the network, if the model is one.

    Raises:
        ExportError: the model cannot be exported.
    """
    if isinstance(model, (str, Path)):
        return {}
    from torch import nn

    if not isinstance(model, nn.Module):
        raise ExportError(
            f"export takes a run, a torch.nn.Module, or the name of a model, not {type(model).__name__}",
            'for instance edgekit.export("runs/photos")',
        )
    return {"module": model}


def _as_text(own: dict[str, Any]) -> dict[str, Any]:
    """Convert Python values to the text of the command line."""
    options = {name: str(value) if isinstance(value, Path) else value for name, value in own.items()}
    for name in ("mean", "std", "pixel_range"):
        value = options[name]
        if value is not None and not isinstance(value, str):
            options[name] = ",".join(map(repr, map(float, [value] if isinstance(value, Real) else value)))
    if options["classes"] is not None and not isinstance(options["classes"], str):
        options |= {"classes": None, "names": list(options["classes"])}
    return options
