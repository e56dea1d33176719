"""Export from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit import run as runs
from edgekit.abstention import FALSE_ABSTAIN, RULES, Rule
from edgekit.api.extras import require
from edgekit.api.runs import opened
from edgekit.bundle import Bundle
from edgekit.errors import ExportError, near
from edgekit.sizes import LEAST_SIDE, MOST_SIDE, ImageSize, SizeLike
from edgekit.stages import TRAINED_BY
from edgekit.targets import DEFAULT_TARGETS, every
from edgekit.tasks import ANOMALY, DEFAULT, MULTILABEL, RECOGNITION, find
from edgekit.terminal import echo

if TYPE_CHECKING:
    from torch import nn

    from edgekit.export.importers.source import ModelSource

ModelOfRun = Literal["student", "teacher", "supervised", "encoder"]
_NOT_FOR_ANOMALIES = ("litert", "micro", "executorch")
_ENCODER: ModelOfRun = "encoder"  # it has no classes, so that it can only be exported for recognition
_TASKS = (DEFAULT, MULTILABEL, RECOGNITION, ANOMALY)
_Statistics = str | float | Sequence[float] | None
# Options for models that edgekit did not train; a run has its own values.
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
    size: SizeLike | None = None,
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
    image_size: SizeLike | None = None,
    embedding: bool = False,
    task: str | None = None,
    batch: int | None = None,
    calibration_images: int = 300,
    few_images: bool = False,
    max_drop: float = 1.0,
    min_agreement: float = 0.0,
    recover: bool = False,
    search_minutes: float = 10.0,
    compute_capabilities: str | Sequence[str] | None = None,
    max_ram: str | int | None = None,
    max_flash: str | int | None = None,
    ethos_u: str | None = None,
    jobs: int | None = None,
    timing: bool = True,
    archive: bool = False,
    gate: bool = True,
    abstain: Rule | Literal["never"] = "distance",
    false_abstain: float = FALSE_ABSTAIN,
) -> Bundle:
    """Convert a model, quantize it, verify every variant, and write a bundle, like `edgekit export` with the options of the same names.

        edgekit.export("runs/photos")
        edgekit.export(network, classes=["cat", "dog"], calibrate="photos/", size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

    Args:
        model: a run or its folder; a `torch.nn.Module` that maps normalized float32 images (n, 3, h, w) to logits (n, classes); or a name
            that the command takes: model.onnx, model.safetensors, timm:NAME, torchvision:NAME, package.module:factory.
        which: model of a run: student, teacher or supervised; for recognition also its pretrained encoder; None: student.
        target: onnx, openvino, trt, trt-rtx, litert, micro, executorch; one or several. `all`: every target that can be built here; the others
            are named.
        precision: fp32, fp16, int8; none: each target's defaults.
        output: folder of the bundle; None: RUN/export, for the other models of a run RUN/export-MODEL, else export/NAME.
        calibrate: images without labels to calibrate INT8. This option and those down to `output_name` are not for runs.
        evaluate: images in one sub-folder per class to measure accuracy.
        classes: the names in the order of the logits, or a file of them.
        weights: a file of weights for the model.
        weights_key: key of the weights in that file.
        size: of the images that the model takes, in pixels: a side, or (height, width).
        resize: shorter side before the center is cut out, in pixels.
        interpolation: resampling filter.
        fit: crop: cut out the center; stretch: resize the whole image.
        resize_rule: rounding of sides to pixels; None: as in torchvision.
        pixel_range: images of more than 8 bits: (lowest, highest) value, `auto` or `dtype`.
        max_pixels: the largest image that is read, in pixels.
        mean: of pixels in [0, 1]; the model takes (x - mean) / std. One number, or one for each channel.
        std: see `mean`.
        channels: order of the input channels; None: rgb.
        output_name: the output of an ONNX graph with the class scores.
        image_size: resolution, a side or (height, width), if it differs from that of the model; the folder is then OUTPUT-PIXELS.
        embedding: add the embedding, the input of the last linear layer, as an output.
        task: what the bundle answers: classification; multilabel: any number of classes for each image; recognition: the embedding
            alone, for galleries (the bundle has no classes, and RUN/export-recognition is its default folder); or anomaly, of a run with
            that task. None: what a run's recipe says, else classification.
        batch: fixed batch size; None: any.
        calibration_images: largest number of calibration images.
        few_images: allow calibration with fewer than 8 images.
        max_drop: largest accepted loss of accuracy, in percentage points.
        min_agreement: smallest accepted share of test images, 0 to 1, on which a variant predicts the same class as the trained model.
        recover: if INT8 loses more accuracy, adapt the weights on unlabeled images.
        search_minutes: time limit for the INT8 accuracy search, for all variants together.
        compute_capabilities: of the GPUs that trt-rtx builds for, such as `["8.6", "8.9"]`; None: see the command.
        max_ram: RAM that a microcontroller has for the model, in bytes or such as `256K`; micro is rejected where it needs more.
        max_flash: flash that it has for the model, likewise.
        ethos_u: the Arm NPU that micro is also compiled for, such as `ethos-u55-128`.
        jobs: variants to build at the same time; None: as many as the processors allow.
        timing: compare the speed of INT8 and float on this machine.
        archive: also write the bundle as one file, OUTPUT.zip.
        gate: raise an error if a variant was rejected. False: only record it (`bundle.manifest.variants[i].status`).
        abstain: the score by which an image is answered with unknown: distance, probability or energy; never: no image is.
        false_abstain: the share of known images that may be called unknown, above 0 and at most 0.5.

    Returns:
        The bundle.

    Raises:
        GateFailed: a variant was rejected; the bundle is complete nevertheless.
        ExportError: the model cannot be converted, or options are incompatible.
        RunError, DataError: the run or the images are invalid.
        RuntimeMissing: the extra [export] is not installed.
    """
    arguments = locals()
    own = {name: arguments[name] for name in _OF_OTHERS} | {"size": _checked_size(size, "--size")}
    resolution = _checked_size(image_size, "--image-size")
    targets, precisions = chosen_targets(target, batch), _several(precision)
    devices = _for_gpus(compute_capabilities, targets) | _for_boards(max_ram, max_flash, ethos_u, targets)
    if abstain != "never" and abstain not in RULES:
        raise ExportError(f"abstain: {abstain!r} is no score", f"give one of {', '.join(RULES)}, or never")
    if not 0 < false_abstain <= 0.5:
        raise ExportError(
            f"false_abstain: {false_abstain:g} is not above 0 and at most 0.5", "0.05 is one image in twenty"
        )
    require("onnx", "torch")
    from edgekit.export.catalog import check_batch
    from edgekit.export.from_source import export_source
    from edgekit.export.pack import zipped
    from edgekit.export.pipeline import ExportOptions, plan
    from edgekit.export.pipeline import gate as require_passed
    from edgekit.temporary import scratch_folder

    plan(targets, precisions)  # refuses what does not fit before the model is looked at
    check_batch(targets, batch)
    task, which = _chosen_task(model, which, task, embedding)
    targets = _of_task(task, targets, "all" in _several(target))
    ids = plan(targets, precisions)
    # Only an answer that may be unknown can be asked for without; thresholds of classes are always calibrated.
    never: Rule | None = None if find(task).abstains else RULES[0]
    rule = never if abstain == "never" else abstain
    options = ExportOptions(
        max_drop=max_drop, min_agreement=min_agreement, recover=recover, search_minutes=search_minutes, **devices
    )
    with scratch_folder("export") as scratch:
        source = _source(model, which, calibration_images, own, resolution, Path(scratch), task)
        if task == RECOGNITION:
            from edgekit.export.recognition import recognizer_of

            source = recognizer_of(source, Path(scratch))
        if source.random:
            echo(f"{_name(model)}: {source.notes[0]}", err=True)
        folder = Path(output) if output is not None else source.output
        bundle = export_source(
            source,
            output=folder if resolution is None else folder.with_name(f"{folder.name}-{resolution}"),
            rule=rule,
            false_abstain=false_abstain,
            targets=targets,
            precisions=precisions,
            embedding=embedding,
            batch=batch,
            jobs=jobs,
            timed=timing,
            few_images=few_images,
            options=options,
            alarm=source.alarm,
            task=task,
        )
    if archive:
        zipped(bundle, zip_of(bundle))
    if gate:
        require_passed(bundle, ids, options.bounds)
    return bundle


def _chosen_task(
    model: nn.Module | runs.Run | Path | str, which: ModelOfRun | None, task: str | None, embedding: bool
) -> tuple[str, ModelOfRun | None]:
    """Return what the bundle answers, and which model of a run that is; by its recipe, where the caller does not say.

    Raises:
        ExportError: there is no such task, or it has no further embedding to give.
    """
    if task not in (None, *_TASKS):
        hint = near(task, _TASKS) or f"give one of {', '.join(_TASKS)}"
        raise ExportError(f"no such task to export: {task}", hint)
    run = _as_run(model)
    trained_for = DEFAULT if run is None else run.recipe.task
    if run is not None and task not in (None, RECOGNITION) and (task == MULTILABEL) != (trained_for == MULTILABEL):
        raise ExportError(f"--task {task}: {run.path} was trained for {trained_for}", "leave --task out")
    task = task or trained_for
    if (task == ANOMALY) != (trained_for == ANOMALY):
        what = f"{_name(model)}: its recipe has task: {trained_for}" if run is not None else f"{_name(model)} is no run"
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


def _of_task(task: str, targets: tuple[str, ...], every_target: bool) -> tuple[str, ...]:
    """The targets that can serve a task; of `--target all`, the others are left out, and named.

    Raises:
        ExportError: another one is asked for.
    """
    if task != ANOMALY:
        return targets
    other = [name for name in targets if name in _NOT_FOR_ANOMALIES]
    if other and not every_target:
        raise ExportError(
            f"--target {other[0]}: not supported for task {ANOMALY}, whose graphs search a bank, or whiten features",
            f"take {', '.join(name for name in every() if name not in _NOT_FOR_ANOMALIES)}",
        )
    for name in other:
        echo(f"{name} is left out: not supported for task {ANOMALY}", err=True)
    return tuple(name for name in targets if name not in other)


def _as_run(model: nn.Module | runs.Run | Path | str) -> runs.Run | None:
    """Return the run that a model is given by; None where it is none."""
    if isinstance(model, runs.Run):
        return model
    if isinstance(model, (str, Path)):
        from edgekit.export.importers.kinds import kind_of

        return opened(model) if kind_of(str(model)) == "run" else None
    return None


def zip_of(bundle: Bundle) -> Path:
    """Return the path of the bundle as one file."""
    return bundle.path.with_name(f"{bundle.path.name}.zip")


def chosen_targets(asked: str | Sequence[str], batch: int | None = None) -> tuple[str, ...]:
    """The targets that are meant, each once; `all` leaves out what cannot be made here, or not with this batch size, and says so.

    Args:
        asked: names of targets, or `all` among them; none: the defaults.
        batch: the batch size of the graphs; None: any.
    """
    names = tuple(dict.fromkeys(_several(asked))) or DEFAULT_TARGETS
    if "all" not in names:
        return names
    from edgekit.export.listing import why_not_made

    chosen = []
    for target in every().values():
        other_batch = batch is not None and target.only_batch not in {0, batch}
        if missing := why_not_made(target) or (f"it runs batches of {target.only_batch} alone" if other_batch else ""):
            echo(f"{target.name} is left out: {missing}", err=True)
        else:
            chosen.append(target.name)
    return tuple(chosen)


def _for_gpus(capabilities: str | Sequence[str] | None, targets: Sequence[str]) -> dict[str, Any]:
    """The option of the targets that build for other GPUs than this machine's.

    Raises:
        ExportError: no such target is asked for, or there is no such capability.
    """
    from edgekit.runtimes.tensorrt.options import parse_capabilities

    if capabilities is None:
        return {}
    _check_taken("compute_capabilities", "--compute-capability", targets, "other targets build on the device")
    text = capabilities if isinstance(capabilities, str) else ",".join(capabilities)
    return {"compute_capabilities": parse_capabilities(text)}


def _for_boards(
    max_ram: str | int | None, max_flash: str | int | None, ethos_u: str | None, targets: Sequence[str]
) -> dict[str, Any]:
    """The options of the targets for microcontrollers.

    Raises:
        ExportError: no such target is asked for, or an option's value is not valid.
    """
    given = {"max_ram": max_ram, "max_flash": max_flash, "ethos_u": ethos_u}
    chosen = {name: value for name, value in given.items() if value is not None}
    for name in chosen:
        _check_taken(name, f"--{name.replace('_', '-')}", targets, "give that target, or leave it out")
    if not chosen:
        return {}
    from edgekit.export.micro.limits import parse_size
    from edgekit.export.micro.npu import check_accelerator

    if ethos_u is not None:
        check_accelerator(ethos_u)
    sizes = {
        name: parse_size(value, f"--{name.replace('_', '-')}") for name, value in chosen.items() if name != "ethos_u"
    }
    return {**chosen, **sizes}


def _check_taken(name: str, option: str, targets: Sequence[str], hint: str) -> None:
    """Check that one of the targets has an option of its own (`Target.options`).

    Raises:
        ExportError: none has.
    """
    takers = [target.name for target in every().values() if name in target.options]
    if not set(takers) & set(targets):
        raise ExportError(f"{option} is of --target {' and '.join(takers)} alone", hint)


def _checked_size(size: SizeLike | None, option: str) -> ImageSize | None:
    """Return a size within the limits of a bundle.

    Raises:
        ExportError: it is none.
    """
    if size is None:
        return None
    try:
        found = ImageSize.of(size)
    except ValueError as error:
        raise ExportError(f"{option}: {error}", "for example 96, or (96, 128)") from error
    if not all(LEAST_SIDE <= side <= MOST_SIDE for side in found):
        raise ExportError(
            f"{option} {found.option}: is not possible", f"give sides from {LEAST_SIDE} to {MOST_SIDE} pixels"
        )
    return found


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _source(
    model: nn.Module | runs.Run | Path | str, which: str | None, calibration_images: int, own: dict[str, Any],
    image_size: ImageSize | None, scratch: Path, task: str = DEFAULT,
) -> ModelSource:  # fmt: skip
    """Return the model to export, at the resolution `image_size` if it is set; checks that do not need torch come first."""
    if isinstance(model, runs.Run):
        return _of_run(model, which, calibration_images, own, image_size, task)
    if isinstance(model, (str, Path)):
        from edgekit.export.importers.kinds import kind_of

        if kind_of(str(model)) == "run":
            return _of_run(opened(model), which, calibration_images, own, image_size, task)
    if which is not None:
        raise ExportError(f"--model {which}: {_name(model)} is not a run", "leave --model out")

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
            _name(model),
            calibration_images=calibration_images,
            several=task == MULTILABEL,
            **_as_text(own),
            **_module(model),
        ),
        scratch,
    )


def _of_run(
    run: runs.Run,
    which: str | None,
    calibration_images: int,
    own: dict[str, Any],
    image_size: ImageSize | None,
    task: str,
) -> ModelSource:
    set_options = [f"--{name.replace('_', '-')}" for name, value in own.items() if value is not None]
    run, which = opened(run), which or "student"
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
    run: runs.Run, calibration_images: int, set_options: list[str], image_size: ImageSize | None
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


def _name(model: nn.Module | runs.Run | Path | str) -> str:
    return str(model) if isinstance(model, (str, Path)) else type(model).__name__


def _module(model: nn.Module | Path | str) -> dict[str, Any]:
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
            options[name] = ",".join(map(repr, map(float, value if isinstance(value, Sequence) else [value])))
    if options["classes"] is not None and not isinstance(options["classes"], str):
        options |= {"classes": None, "names": list(options["classes"])}
    return options
