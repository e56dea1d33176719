"""Export from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from edgekit import run as runs
from edgekit.abstention import FALSE_ABSTAIN, RULES, Rule
from edgekit.api.export_model import (
    OPTIONS_OF_OTHERS,
    ModelOfRun,
    Statistics,
    chosen_task,
    model_source,
    name_of,
    run_of,
)
from edgekit.api.export_options import (
    check_abstention,
    checked_size,
    chosen_targets,
    for_boards,
    for_gpus,
    targets_of_task,
)
from edgekit.api.extras import require
from edgekit.arguments import Count, Within, checked, several
from edgekit.bundle import Bundle
from edgekit.sizes import SizeLike
from edgekit.targets import DEFAULT_TARGETS
from edgekit.task_names import RECOGNITION
from edgekit.tasks import find
from edgekit.terminal import echo

if TYPE_CHECKING:
    from torch import nn


@checked("model", "which", "abstain", "size", "image_size")
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
    resize: Annotated[int, Within(4, 8192)] | None = None,
    interpolation: Literal["bilinear", "bicubic", "lanczos"] | None = None,
    fit: Literal["crop", "stretch"] | None = None,
    resize_rule: Literal["torchvision", "edgekit"] | None = None,
    pixel_range: str | tuple[float, float] | None = None,
    max_pixels: Count | None = None,
    mean: Statistics = None,
    std: Statistics = None,
    channels: Literal["rgb", "bgr"] | None = None,
    output_name: str | None = None,
    image_size: SizeLike | None = None,
    embedding: bool = False,
    task: str | None = None,
    batch: Count | None = None,
    calibration_images: Count = 300,
    few_images: bool = False,
    max_drop: float = 1.0,
    min_agreement: float = 0.0,
    recover: bool = False,
    search_minutes: float = 10.0,
    compute_capabilities: str | Sequence[str] | None = None,
    max_ram: str | int | None = None,
    max_flash: str | int | None = None,
    ethos_u: str | None = None,
    jobs: Count | None = None,
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
    own = {name: arguments[name] for name in OPTIONS_OF_OTHERS} | {"size": checked_size(size, "--size")}
    resolution = checked_size(image_size, "--image-size")
    targets, precisions = chosen_targets(target, batch), several(precision)
    devices = for_gpus(compute_capabilities, targets) | for_boards(max_ram, max_flash, ethos_u, targets)
    check_abstention(abstain, false_abstain)
    require("onnx", "torch")
    from edgekit.export.catalog import check_batch
    from edgekit.export.from_source import export_source
    from edgekit.export.gate import gate as require_passed
    from edgekit.export.pack import zipped
    from edgekit.export.pipeline import ExportOptions, plan
    from edgekit.temporary import scratch_folder

    plan(targets, precisions)  # refuses what does not fit before the model is looked at
    check_batch(targets, batch)
    run = run_of(model)
    task, which = chosen_task(model, run, which, task, embedding)
    targets = targets_of_task(task, targets, "all" in several(target))
    ids = plan(targets, precisions)
    # Only an answer that may be unknown can be asked for without; thresholds of classes are always calibrated.
    never: Rule | None = None if find(task).abstains else RULES[0]
    rule = never if abstain == "never" else abstain
    options = ExportOptions(
        max_drop=max_drop, min_agreement=min_agreement, recover=recover, search_minutes=search_minutes, **devices
    )
    with scratch_folder("export") as scratch:
        source = model_source(model, run, which, calibration_images, own, resolution, Path(scratch), task)
        if task == RECOGNITION:
            from edgekit.export.recognition import recognizer_of

            source = recognizer_of(source, Path(scratch))
        if source.random:
            echo(f"{name_of(model)}: {source.notes[0]}", err=True)
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


def zip_of(bundle: Bundle) -> Path:
    """Return the path of the bundle as one file."""
    return bundle.path.with_name(f"{bundle.path.name}.zip")
