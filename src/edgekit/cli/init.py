"""`edgekit init`: write a commented recipe for a folder of images."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli import completers
from edgekit.cli.choices import ParamType
from edgekit.errors import EdgekitError
from edgekit.task_names import TASK_NAMES
from edgekit.terminal import echo, echo_file

if TYPE_CHECKING:
    from edgekit.data.layout import Layout
    from edgekit.data.template import RecipePlan

_TIME = re.compile(r"(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s)?")
_DEFAULT_TIME = "20m"


class Time(ParamType[float]):
    """A time such as 20m, 1h30m or 90s, in seconds."""

    name = "time"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See `click.ParamType`."""
        if isinstance(value, float):
            return value
        found = _TIME.fullmatch(value.strip().lower())
        parts = {unit: float(count) for unit, count in (found.groupdict() if found else {}).items() if count}
        seconds = 3600 * parts.get("h", 0.0) + 60 * parts.get("m", 0.0) + parts.get("s", 0.0)
        if not 0 < seconds < 365 * 86400:
            self.fail(f"{value!r} is not a time: write it like 20m, 1h30m or 90s", param, ctx)
        return seconds


@click.command(name="init")
@click.argument("folder", shell_complete=completers.files)
@click.option("--name", help="Name of the run.  [default: the folder's]")
@click.option(
    "--labels",
    metavar="BUDGET",
    shell_complete=completers.files,
    help="Labels to use: a number per class (10), a share (0.1), or a CSV file with the column `file`.  [default: all]",
)
@click.option(
    "--time",
    "seconds",
    type=Time(),
    metavar="TIME",
    help=f"Time that the whole training may take on this machine, for example 90s, 20m or 1h30m.  [default: {_DEFAULT_TIME}]",
)
@click.option(
    "--task",
    type=click.Choice(TASK_NAMES),
    help="multilabel: any number of classes for each image, from a CSV file; recognition: a model whose embedding recognizes classes "
    "by a few images of each (see edgekit gallery); anomaly: a detector of what is unlike normal images.  [default: by the images]",
)
@click.option("--no-measure", is_flag=True, help="Measure nothing: choose by the numbers of images and labels.")
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write to this file instead of standard output."
)
@click.option("--unlabeled", is_flag=True, help="Treat all images as unlabeled: FOLDER's subfolders are not classes.")
@click.option(
    "--teacher",
    metavar="MODEL",
    shell_complete=completers.files,
    help="Learn the features of a pretrained encoder, without labels: timm:NAME, torchvision:NAME, module:factory, a file of "
    "weights, or the folder of a run.",
)
@click.option("--force", is_flag=True, help="Overwrite FILE.")
def command(
    folder: str,
    name: str | None,
    labels: str | None,
    seconds: float | None,
    task: str | None,
    no_measure: bool,
    output: Path | None,
    unlabeled: bool,
    teacher: str | None,
    force: bool,
) -> None:
    """Write a commented recipe for the images in FOLDER, or for the built-in `digits`; for the task anomaly also the built-in `textures`.

    FOLDER has one subfolder per class; or train/ with such subfolders and, optionally, test/ (or val/) with the same classes
    and unlabeled/ with any images; or a CSV file that lists images and their classes, one or several for each; or only images,
    without labels. Paths in the recipe are relative to the current directory.

    The command runs real training steps for 10 to 60 seconds to choose the network, its size and its epochs, so that the
    whole training takes about --time on this machine.

    With --task anomaly, FOLDER has train/good, test/good, test/DEFECT and ground_truth/DEFECT (as MVTec AD), or holds only normal images, or is
    a CSV file with the columns file, label, mask and split. Nothing is measured.

    \b
    For example:
      edgekit init photos/ > recipe.yaml
      edgekit init photos/ --labels 10 --time 1h --output photos.yaml
      edgekit init camera/ --unlabeled > camera.yaml
      edgekit init photos/ --teacher timm:vit_small_patch14_dinov2.lvd142m --output photos.yaml
      edgekit init digits > digits.yaml
      edgekit init photos/ --task recognition > recipe.yaml
      edgekit init photos/labels.csv > recipe.yaml
      edgekit init bottles/ --task anomaly > bottles.yaml
      edgekit init textures --task anomaly > textures.yaml
    """
    from edgekit.data.fitting import fitting_budget
    from edgekit.data.layout import inspect_folder
    from edgekit.data.sources import DIGITS, DIGITS_TO_KNOW
    from edgekit.data.teacher_template import with_teacher
    from edgekit.data.template import recipe_text
    from edgekit.files import check_writable_file
    from edgekit.models.teacher_source import teacher_source
    from edgekit.recipe import parse, read_yaml

    if output is not None:
        if output.exists() and not force:
            raise EdgekitError(f"{output}: exists already", "choose another --output, or overwrite it with --force")
        check_writable_file(output)
    if no_measure and seconds is not None:
        raise EdgekitError("--time and --no-measure cannot be combined: --time needs a measurement", "leave one out")
    if teacher is not None and seconds is not None:
        raise EdgekitError(
            "--time and --teacher cannot be combined: the measurement is of training without a teacher",
            "leave out --time",
        )
    if task == "anomaly":
        _refuse_for_anomalies({"--labels": labels, "--time": seconds, "--unlabeled": unlabeled, "--teacher": teacher})
        _write_anomaly_recipe(folder, name, output)
        return
    layout = inspect_folder(
        DIGITS_TO_KNOW if (folder, task) == (DIGITS, "recognition") else folder, unlabeled=unlabeled
    )
    task = _task(task, layout)
    budget = _budget(labels, layout) if labels is not None else None
    # Refuses a wrong name or budget before anything is measured.
    draft = recipe_text(layout, name, labels=budget, task=task)
    if labels is not None:
        fitting, note = fitting_budget(labels, parse(read_yaml(draft)).data, layout)
        budget = fitting or budget
        if note:
            echo(f"note: {note}", err=True)
    plan = None if no_measure or teacher is not None else _measured(layout, budget, seconds)
    text = recipe_text(layout, name, "recipe.yaml" if output is None else str(output), budget, plan, task)
    if teacher is not None:
        text = with_teacher(text, *teacher_source(teacher))
        parse(read_yaml(text))
    _write(text, layout.notes, output)


def _refuse_for_anomalies(options: dict[str, object]) -> None:
    """Refuse the options that say nothing where there are normal images alone."""
    for option, value in options.items():
        if value:
            hint = "name the encoder in the recipe: anomaly.encoder" if option == "--teacher" else f"leave out {option}"
            raise EdgekitError(f"{option} and --task anomaly cannot be combined", hint)


def _write_anomaly_recipe(folder: str, name: str | None, output: Path | None) -> None:
    from edgekit.data.anomaly_template import anomaly_recipe_text

    text, notes = anomaly_recipe_text(folder, name, "recipe.yaml" if output is None else str(output))
    _write(text, notes, output)


def _write(text: str, notes: list[str], output: Path | None) -> None:
    """Print the notes, and write the recipe into a file or print it."""
    from edgekit.files import write_text

    for note in notes:
        echo(f"note: {note}", err=True)
    if output is None:
        echo_file(text)
        return
    write_text(output, text)
    echo(f"wrote {output}; train it with `edgekit train {output}`", err=True)


def _task(task: str | None, layout: Layout) -> str:
    """The task of the recipe: the user's, or that of the labels.

    Raises:
        EdgekitError: the labels are of another task.
    """
    if layout.several and task not in (None, "multilabel"):
        raise EdgekitError(
            f"--task {task}: {layout.labeled} has images with several classes, or without one",
            "leave --task out; `edgekit export --task recognition` takes such a run, too",
        )
    if task == "multilabel" and not layout.several:
        raise EdgekitError(
            f"--task multilabel: {layout.name} has one class for each image, or none is labeled",
            "give a CSV file of images with their classes, see docs/multilabel.md",
        )
    return task or ("multilabel" if layout.several else "classification")


def _measured(layout: Layout, labels: str | None, seconds: float | None) -> RecipePlan | None:
    """Plan a training for this machine and time; None where no plan is needed, or PyTorch is not installed."""
    from importlib.util import find_spec

    from edgekit.data.sources import is_digits
    from edgekit.progress import duration, say

    if is_digits(layout.labeled) and seconds is None:
        return None  # its recipe is fixed and tested
    if find_spec("torch") is None or find_spec("lightning") is None:
        if seconds is not None:
            raise EdgekitError("--time needs PyTorch to measure this machine", "install the extra [train]")
        echo("note: nothing was measured, because PyTorch is not installed here", err=True)
        return None
    from edgekit.processors import configure_openmp, load_of_others, usable_cpus

    configure_openmp()
    from edgekit.train.planning import plan

    if (load := load_of_others()) is not None:
        echo(
            f"note: other programs use this machine (load {load:.0f} on {usable_cpus()} CPUs): the recipe is planned for the rest",
            err=True,
        )
    budget_seconds = Time().convert(_DEFAULT_TIME, None, None) if seconds is None else seconds
    start_up = time.process_time()  # the training takes as long to load the libraries
    chosen, expected = plan(layout, labels, budget_seconds, say, start_up)
    echo(f"the whole training should take {duration(expected)} on this machine", err=True)
    return chosen


def _budget(labels: str, layout: Layout) -> str:
    """Return the budget as the recipe writes it."""
    from edgekit.recipe import read_yaml

    value = read_yaml(labels)
    if layout.labeled is None and not isinstance(value, str):
        raise EdgekitError(
            f"--labels {labels}: no labels can be drawn: {layout.name} has no classes",
            "give a CSV file with the columns file,class, or leave --labels out",
        )
    if isinstance(value, str) and not Path(value).expanduser().is_file():
        raise EdgekitError(
            f"--labels {value}: no such file",
            "give a number per class (10), a share (0.1), or a CSV file with the column `file`",
        )
    return json.dumps(value, ensure_ascii=False)
