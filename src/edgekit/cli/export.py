"""`edgekit export`: convert a run's model, or any other classifier, to a verified bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from edgekit import targets as table
from edgekit.abstention import FALSE_ABSTAIN, RULES, Rule
from edgekit.cli import completers
from edgekit.cli.choices import Number, SizeOption, TableChoice
from edgekit.cli.export_table import print_json, print_possibilities, print_table
from edgekit.sizes import ImageSize
from edgekit.stages import TRAINED_BY
from edgekit.task_names import TASK_NAMES

if TYPE_CHECKING:
    from edgekit.api.export_model import ModelOfRun
    from edgekit.bundle import Bundle


def _default_precisions() -> str:
    """Return the default precisions, grouped by targets that share them: `fp32 and int8 for onnx; …`."""
    grouped: dict[tuple[str, ...], list[str]] = {}
    for target in table.built_in().values():
        grouped.setdefault(target.defaults, []).append(target.name)
    return "; ".join(f"{' and '.join(precisions)} for {', '.join(names)}" for precisions, names in grouped.items())


@click.command(name="export")
@click.argument("model", metavar="MODEL", required=False, shell_complete=completers.files)
@click.option(
    "--list",
    "as_list",
    is_flag=True,
    help="List the targets and precisions, and which of them this machine can build and run.",
)
@click.option(
    "--weights",
    metavar="FILE",
    shell_complete=completers.files,
    help="Weights for MODEL: .safetensors, .pth or .pt; no code in the file is run.",
)
@click.option(
    "--weights-key", metavar="KEY",
    help="Which weights to take from a checkpoint that holds several, for example state_dict.  [default: those that fit, EMA first]",
)  # fmt: skip
@click.option(
    "--classes", metavar="FILE", shell_complete=completers.files,
    help="Names of MODEL's classes in the order of its logits: one per line, or JSON (a list, or {index: name}).",
)  # fmt: skip
@click.option(
    "--calibrate", metavar="IMAGES", shell_complete=completers.files, help="Unlabeled images for INT8 calibration."
)
@click.option(
    "--evaluate",
    metavar="IMAGES",
    shell_complete=completers.files,
    help="Images in one subfolder per class, to measure accuracy on.",
)
@click.option("--size", type=SizeOption(), help="Size of MODEL's input images: PIXELS, or HEIGHT,WIDTH.")
@click.option(
    "--resize", type=click.IntRange(4, 8192), help="Shorter side after resizing, before the center crop, in pixels."
)
@click.option(
    "--interpolation", type=click.Choice(["bilinear", "bicubic", "lanczos"]), help="Interpolation for resizing images."
)
@click.option("--fit", type=click.Choice(["crop", "stretch"]), help="Crop the center, or stretch the whole image.")
@click.option(
    "--resize-rule", type=click.Choice(["torchvision", "edgekit"]),
    help="Rule for rounding sides and margins to pixels.  [default: torchvision, which timm uses too; edgekit for its own networks]",
)  # fmt: skip
@click.option(
    "--pixel-range", metavar="auto|dtype|LOW,HIGH",
    help="Images of more than 8 bits: the values that become 0 and 255.  [default: auto, from the --calibrate images]",
)  # fmt: skip
@click.option(
    "--max-pixels",
    type=click.IntRange(1),
    metavar="N",
    help="Refuse images with more pixels than this.  [default: 100 million]",
)
@click.option(
    "--mean", metavar="M[,M,M]",
    help="MODEL's input is (x - mean) / std. For pixels in [0, 1], or in 0 to 255 if a number is over 1; in MODEL's channel order.",
)  # fmt: skip
@click.option("--std", metavar="S[,S,S]", help="See --mean.")
@click.option(
    "--channels", type=click.Choice(["rgb", "bgr"]),
    help="MODEL's channel order; Caffe, PaddleOCR and many OpenMMLab networks use bgr.  [default: rgb]",
)  # fmt: skip
@click.option(
    "--output-name", metavar="NAME", help="The output of model.onnx that holds the logits, if it has several outputs."
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    type=TableChoice(lambda: [*table.every(), "all"]),
    help=f"Target to export for; may be repeated.  [default: {' and '.join(table.DEFAULT_TARGETS)}]",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(table.PRECISIONS),
    help=f"Only this precision; may be repeated.  [default: {_default_precisions()}]",
)
@click.option(
    "--compute-capability", "capabilities", metavar="X.Y[,…]",
    help="GPUs that trt-rtx builds for, for example 8.6,8.9.  [default: 8.0, 8.6, 8.9, 12.0 and 12.1]",
)  # fmt: skip
@click.option("--max-ram", metavar="BYTES", help="micro: reject a model whose arena needs more RAM, for example 256K.")
@click.option("--max-flash", metavar="BYTES", help="micro: reject a model whose file needs more flash, for example 1M.")
@click.option("--ethos-u", metavar="NPU", help="micro: also compile for an Arm NPU, for example ethos-u55-128.")
@click.option(
    "--max-drop", type=Number(0, 100), default=1.0, show_default=True,
    help="Largest accuracy drop that passes, in percentage points.",
)  # fmt: skip
@click.option(
    "--min-agreement", type=Number(0, 1), default=0.0, show_default="none",
    help="Smallest share of test images, 0 to 1, that a variant must classify as the trained model does.",
)  # fmt: skip
@click.option(
    "--recover", is_flag=True,
    help="If INT8 loses more than --max-drop, adapt the weights on unlabeled images (minutes; see docs/export.md).",
)  # fmt: skip
@click.option(
    "--search-minutes", type=Number(0), default=10.0, show_default=True, metavar="MINUTES",
    help="Time limit of the INT8 accuracy search, for all variants together.",
)  # fmt: skip
@click.option(
    "--calibration-images", type=click.IntRange(1), default=300, show_default=True,
    help="Number of unlabeled images for INT8 calibration, from the pool or --calibrate.",
)  # fmt: skip
@click.option(
    "--few-images", is_flag=True, help="Allow INT8 calibration with fewer than 8 images.",
)  # fmt: skip
@click.option(
    "--model",
    "model_of_run",
    type=click.Choice([*TRAINED_BY, "encoder"]),
    help="The run's model to export; encoder: only with --task recognition.  [default: student]",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The bundle's folder.  [default: RUN/export; with --model RUN/export-MODEL; for your own model export/NAME]",
)
@click.option(
    "--embedding", is_flag=True, help="Add the embedding (the input of the linear layer) as an output of the graph."
)
@click.option(
    "--task", type=click.Choice(TASK_NAMES),
    help="multilabel: any number of classes for each image; "
    "recognition: only the embedding, for galleries (see edgekit gallery), into DIR-recognition; "
    "anomaly: of runs with that task.  [default: the recipe's]",
)  # fmt: skip
@click.option("--batch", type=click.IntRange(1), metavar="N", help="Fix the graph's batch size.  [default: any]")
@click.option(
    "--image-size", "sizes", multiple=True, type=SizeOption(), metavar="PIXELS",
    help="Export at this resolution, PIXELS or HEIGHT,WIDTH, into DIR-PIXELS; may be repeated.  [default: the training resolution, into DIR]",
)  # fmt: skip
@click.option(
    "--jobs", type=click.IntRange(1), metavar="N",
    help="Make N variants at a time, each in its own process.  [default: cores - 1, at most 4]",
)  # fmt: skip
@click.option(
    "--timing/--no-timing", "timed", default=True, show_default=True,
    help="Compare the speed of INT8 and float on this machine, at most 20 s per variant; without it, float stays the default.",
)  # fmt: skip
@click.option(
    "--abstain", type=click.Choice([*RULES, "never"]), default="distance", show_default=True,
    help="The score by which predict answers unknown (see docs/predict.md).",
)  # fmt: skip
@click.option(
    "--false-abstain", type=Number(0, 0.5, min_open=True), default=FALSE_ABSTAIN, show_default=True,
    help="Share of the known images, 0 to 0.5, that may be called unknown.",
)  # fmt: skip
@click.option("--zip", "as_zip", is_flag=True, help="Also write the bundle as one file, DIR.zip.")
@click.option("--json", "as_json", is_flag=True, help="Print the variants as JSON.")
def command(
    model: str | None, as_list: bool, targets: tuple[str, ...], precisions: tuple[str, ...], capabilities: str | None,
    max_ram: str | None, max_flash: str | None, ethos_u: str | None,
    max_drop: float, min_agreement: float, recover: bool, search_minutes: float, calibration_images: int, few_images: bool,
    model_of_run: ModelOfRun | None, output: Path | None,
    embedding: bool, task: str | None,
    batch: int | None, sizes: tuple[ImageSize, ...], jobs: int | None, timed: bool, abstain: Literal[Rule, "never"],
    false_abstain: float, as_zip: bool, as_json: bool, **own: Any,
) -> None:  # fmt: skip
    """Convert a model, quantize it, verify it, and write it as a bundle.

    MODEL is a run's folder (its student, or --model), or your own classifier: model.onnx, model.safetensors, timm:NAME,
    torchvision:NAME or package.module:factory. Your own classifier needs --calibrate, and --evaluate to measure its accuracy.
    Without --weights, timm and torchvision networks have random weights: good for timing them before training.

    Every variant is verified in its runtime if that is installed: float variants must classify the golden images as the
    trained model does, and every variant must keep its accuracy on the test set within --max-drop. A variant that fails is
    marked as rejected in the bundle, and the exit code is 1. Variants that are up to date are not made again.

    \b
    For example:
      edgekit export runs/photos
      edgekit export runs/photos --target onnx --precision int8 --max-drop 0.5
      edgekit export runs/photos --target openvino --zip
      edgekit export runs/photos --embedding --batch 1 --image-size 128 --image-size 160
      edgekit export model.onnx --calibrate photos/ --evaluate test/ --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
      edgekit export timm:mobilenetv3_small_050 --weights mine.safetensors --classes names.txt --calibrate photos/
      edgekit export torchvision:resnet18 --calibrate photos/ --size 128
      edgekit export runs/photos --target micro --max-ram 256K --max-flash 1M
      edgekit export runs/photos --task recognition --model encoder
      edgekit export --list
      edgekit export runs/photos --target trt --target trt-rtx --compute-capability 8.6,8.9
    """
    if as_list:
        return print_possibilities(as_json)
    if model is None:
        raise click.UsageError("Missing argument 'MODEL': a run's folder, or a model (see --help).")
    from edgekit.api.export_options import chosen_targets
    from edgekit.api.exporting import export, zip_of
    from edgekit.export.catalog import plan

    targets = chosen_targets(targets, batch)
    ids = plan(targets, precisions)
    bundles: list[tuple[Bundle, Path | None]] = []
    for size in dict.fromkeys(sizes) or [None]:
        bundle = export(
            model, model_of_run, target=targets, precision=precisions, output=output, image_size=size, embedding=embedding, task=task, batch=batch,
            calibration_images=calibration_images, few_images=few_images, max_drop=max_drop, min_agreement=min_agreement,
            recover=recover, search_minutes=search_minutes, jobs=jobs, timing=timed, archive=as_zip, gate=False,
            compute_capabilities=capabilities, max_ram=max_ram, max_flash=max_flash, ethos_u=ethos_u, abstain=abstain,
            false_abstain=false_abstain, **own,
        )  # fmt: skip
        archive = zip_of(bundle) if as_zip else None
        bundles.append((bundle, archive))
        if not as_json:
            print_table(bundle, archive)
    if as_json:
        print_json(bundles)
    from edgekit.export.gate import gate
    from edgekit.export.verify import AccuracyBounds

    for bundle, _ in bundles:
        gate(bundle, ids, AccuracyBounds(max_drop, min_agreement))
