"""Export from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit import run as runs
from edgekit.api.extras import require
from edgekit.api.runs import opened
from edgekit.bundle import Bundle
from edgekit.errors import ExportError
from edgekit.stages import TRAINED_BY
from edgekit.targets import DEFAULT_TARGETS
from edgekit.terminal import echo

if TYPE_CHECKING:
    from torch import nn

    from edgekit.export.importers.source import ModelSource

ModelOfRun = Literal["student", "teacher", "supervised"]
_Statistics = str | float | Sequence[float] | None
# What a model that edgekit did not train is opened with; a run has its own.
_OF_OTHERS = (
    "weights", "weights_key", "classes", "calibrate", "evaluate", "size", "resize", "interpolation", "fit", "resize_rule",
    "pixel_range", "max_pixels", "mean", "std", "channels", "output_name",
)  # fmt: skip


def export(
    model: nn.Module | runs.Run | Path | str,
    which: ModelOfRun | None = None,
    *,
    target: str | Sequence[str] = DEFAULT_TARGETS,
    precision: str | Sequence[str] = (),
    output: Path | str | None = None,
    calibrate: Path | str | None = None,
    evaluate: Path | str | None = None,
    classes: Path | str | Sequence[str] | None = None,
    weights: Path | str | None = None,
    weights_key: str | None = None,
    size: int | None = None,
    resize: int | None = None,
    interpolation: Literal["bilinear", "bicubic", "lanczos"] | None = None,
    fit: Literal["crop", "stretch"] | None = None,
    resize_rule: Literal["torchvision", "edgekit"] | None = None,
    pixel_range: str | tuple[float, float] | None = None,
    max_pixels: int | None = None,
    mean: _Statistics = None,
    std: _Statistics = None,
    channels: Literal["rgb", "bgr"] | None = None,
    output_name: str | None = None,
    image_size: int | None = None,
    embedding: bool = False,
    batch: int | None = None,
    calibration_images: int = 300,
    few_images: bool = False,
    max_drop: float = 1.0,
    min_agreement: float = 0.0,
    recover: bool = False,
    search_minutes: float = 10.0,
    compute_capabilities: Sequence[str] | None = None,
    jobs: int | None = None,
    timing: bool = True,
    archive: bool = False,
    gate: bool = True,
) -> Bundle:
    """Convert a model, quantize it, verify every variant, and bundle them, as `edgekit export` does with the options of these names.

        edgekit.export("runs/photos")
        edgekit.export(network, classes=["cat", "dog"], calibrate="photos/", size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

    Args:
        model: a run or its folder; a `torch.nn.Module` that maps normalized float32 images (n, 3, size, size) to logits (n, classes); or what
            the command takes: model.onnx, model.safetensors, timm:NAME, torchvision:NAME, package.module:factory.
        which: of a run: student, teacher or supervised; None: student.
        target: onnx, openvino, trt, trt-rtx, litert; one or several.
        precision: fp32, fp16, int8; none: each target's defaults.
        output: the bundle's folder; None: RUN/export, or for another model than a run's student RUN/export-MODEL or export/NAME.
        calibrate: images without labels, which INT8 is calibrated with. Only for models that are no run, as all down to `output_name`.
        evaluate: images in one sub-folder a class, which accuracy is measured on.
        classes: the names in the order of the logits, or a file of them.
        weights: a file of weights for the model.
        weights_key: which weights of that file.
        size: side of the images that the model takes, in pixels.
        resize: shorter side before the center is cut out, in pixels.
        interpolation: how images are resized.
        fit: crop cuts the center out, stretch takes the whole image.
        resize_rule: how sides are rounded to pixels; None: torchvision's.
        pixel_range: images of more than 8 bits: (lowest, highest) value, `auto` or `dtype`.
        max_pixels: the largest image that is read, in pixels.
        mean: of pixels in [0, 1]; the model takes (x - mean) / std. One number, or one for each channel.
        std: see `mean`.
        channels: the order in which the model takes them; None: rgb.
        output_name: which output of an ONNX graph holds the classes.
        image_size: export at another resolution than the model's own; the folder is then OUTPUT-PIXELS.
        embedding: the graph also gives the embedding, what the linear layer sees.
        batch: fixes the graph's batch size; None: any.
        calibration_images: how many images INT8 is calibrated with, at most.
        few_images: calibrate with fewer than 8 images.
        max_drop: the largest loss of accuracy that passes, in percentage points.
        min_agreement: the smallest share of test images, 0 to 1, on which a variant must decide as the trained model does.
        recover: where INT8 loses more than that, adapt the weights on unlabeled images.
        search_minutes: how long INT8 that keeps the accuracy is searched for, all variants together.
        compute_capabilities: of the GPUs that trt-rtx builds for, such as `["8.6", "8.9"]`.
        jobs: variants made at a time; None: as many as the processors allow.
        timing: compare INT8's speed with float's on this machine.
        archive: also write the bundle as one file, OUTPUT.zip.
        gate: raise where a variant was rejected. False: only the bundle says so (`bundle.manifest.variants[i].status`).

    Returns:
        The bundle.

    Raises:
        GateFailed: a variant was rejected; the bundle is complete all the same.
        ExportError: the model cannot be converted, or options do not go together.
        RunError, DataError: the run or the images are not what they must be.
        RuntimeMissing: the extra [export] is not installed.
    """
    given = locals()
    own = {name: given[name] for name in _OF_OTHERS}
    require("onnx", "torch")
    from edgekit.export.pack import zipped
    from edgekit.export.pipeline import ExportOptions, export_classifier, plan
    from edgekit.export.pipeline import gate as require_passed
    from edgekit.temporary import scratch_folder

    targets, precisions = _several(target), _several(precision)
    ids = plan(targets, precisions)
    gpus = {} if compute_capabilities is None else {"compute_capabilities": tuple(compute_capabilities)}
    options = ExportOptions(
        max_drop=max_drop, min_agreement=min_agreement, recover=recover, search_minutes=search_minutes, **gpus
    )
    with scratch_folder("export") as scratch:
        source = _source(model, which, calibration_images, own, image_size, Path(scratch))
        if source.random:
            echo(f"{_name(model)}: {source.notes[0]}", err=True)
        folder = Path(output) if output is not None else source.output
        bundle = export_classifier(
            source.model,
            classes=source.classes,
            preprocessing=source.preprocessing,
            calibration=source.calibration,
            evaluation=source.evaluation,
            output=folder if image_size is None else folder.with_name(f"{folder.name}-{image_size}"),
            targets=targets,
            precisions=precisions,
            embedding=embedding,
            batch=batch,
            jobs=jobs,
            timed=timing,
            few_images=few_images,
            name=source.name,
            provenance=source.provenance,
            trained=source.trained,
            options=options,
        )
    if archive:
        zipped(bundle, zip_of(bundle))
    if gate:
        require_passed(bundle, ids)
    return bundle


def zip_of(bundle: Bundle) -> Path:
    """Where the bundle lies as one file, if it was asked for."""
    return bundle.path.with_name(f"{bundle.path.name}.zip")


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _source(
    model: nn.Module | runs.Run | Path | str, which: str | None, calibration_images: int, own: dict[str, Any],
    image_size: int | None, scratch: Path,
) -> ModelSource:  # fmt: skip
    """What is exported, at another resolution than its own where `image_size` says so; what can be refused without torch is refused
    first."""
    if isinstance(model, runs.Run):
        return _of_run(model, which, calibration_images, own, image_size)
    if isinstance(model, (str, Path)):
        from edgekit.export.importers.kinds import kind_of

        if kind_of(str(model)) == "run":
            return _of_run(opened(model), which, calibration_images, own, image_size)
    if which is not None:
        raise ExportError(f"--model {which}: {_name(model)} is not a run", "leave --model out")

    from edgekit.export.importers.import_model import import_model
    from edgekit.export.importers.request import model_request

    if image_size is not None:
        if own["size"] or own["resize"]:
            raise ExportError(
                "--image-size: goes with neither --size nor --resize", "leave those out, or give --size alone"
            )
        own = {**own, "size": image_size}
    return import_model(
        model_request(_name(model), calibration_images=calibration_images, **_as_text(own), **_module(model)), scratch
    )


def _of_run(
    run: runs.Run, which: str | None, calibration_images: int, own: dict[str, Any], image_size: int | None
) -> ModelSource:
    given = [f"--{name.replace('_', '-')}" for name, value in own.items() if value is not None]
    run, which = opened(run), which or "student"
    if which not in TRAINED_BY:
        raise ExportError(f"{which!r} is not a model of a run", f"give one of {', '.join(TRAINED_BY)}")
    run.require(TRAINED_BY[which])
    if given:
        raise ExportError(f"{given[0]}: {run.path} is a run, which has its own", f"leave {', '.join(given)} out")

    from edgekit.export.importers.runs import from_run
    from edgekit.train.records.inputs import require_current

    return from_run(run, which, calibration_images, require_current, image_size)


def _name(model: nn.Module | runs.Run | Path | str) -> str:
    return str(model) if isinstance(model, (str, Path)) else type(model).__name__


def _module(model: nn.Module | Path | str) -> dict[str, Any]:
    """The network itself, where that is what was given.

    Raises:
        ExportError: it is nothing that can be exported.
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
    """The values of Python as the command line would say them."""
    said = {name: str(value) if isinstance(value, Path) else value for name, value in own.items()}
    for name in ("mean", "std", "pixel_range"):
        value = said[name]
        if value is not None and not isinstance(value, str):
            said[name] = ",".join(map(repr, map(float, value if isinstance(value, Sequence) else [value])))
    if said["classes"] is not None and not isinstance(said["classes"], str):
        said |= {"classes": None, "names": list(said["classes"])}
    return said
