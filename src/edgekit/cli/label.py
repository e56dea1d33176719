"""`edgekit label`: choose which unlabeled images to label first."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.processors import configure_openmp
from edgekit.terminal import echo, echo_json
from edgekit.text import counted

if TYPE_CHECKING:
    from edgekit.train.analysis.suggest import Suggestions


@click.group(name="label")
def command() -> None:
    """Choose which unlabeled images to label first, and label them in a browser.

    \b
    For example:
      edgekit label suggest runs/pile --count 50
    """


@command.command(name="suggest", short_help="List the images to label first.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--count", type=click.IntRange(1), default=50, show_default=True, help="Number of images to label for training."
)
@click.option(
    "--test-count",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Number of labeled images in the test set. The accuracy is known to about 10 points with 100 images, 3 with 1,000.",
)
@click.option("--output", type=click.Path(path_type=Path), help="Folder for the files.  [default: RUN/label]")
@click.option("--json", "as_json", is_flag=True, help="Print the suggestions as JSON.")
def suggest_command(run: Path, count: int, test_count: int, output: Path | None, as_json: bool) -> None:
    """List the images to label first: typical images from every part of the embedding (TypiClust), and random images for the test set.

    RUN is pretrained on unlabeled images (data.labeled: null). The command writes suggestions.csv (file, class, use) and
    label.html, a page that shows the images one by one and saves labels.csv. Then set data.labels to that file in the recipe
    and train again. Labels that the recipe already names count; repeat the command to get more suggestions.

    For a run of task multilabel with data.pool, only suggestions.csv (file, classes, use) is written: fill in the classes of each
    image, separated by semicolons, add the rows for training to the file in data.labeled, and name the rest in data.test.

    \b
    For example:
      edgekit label suggest runs/pile --count 50
      edgekit label suggest runs/pile --count 20 --test-count 300
    """
    configure_openmp()
    from edgekit.files import check_writable_folder
    from edgekit.run import Run

    opened = Run.open(run)
    target = output or opened.path / "label"
    check_writable_folder(target)

    from edgekit.report.label_page import LabelPage, write_label_page
    from edgekit.report.page import require_jinja2
    from edgekit.train.analysis.suggest import suggest
    from edgekit.train.analysis.thumbnails import pictures

    require_jinja2()
    suggestions = suggest(opened, count, test_count)
    files = {"suggestions": target / "suggestions.csv"}
    _keep_classes(files["suggestions"], suggestions)
    _write(suggestions, files["suggestions"])
    to_train, to_test = (sum(s.use == use for s in suggestions.images) for use in ("train", "test"))
    if not suggestions.several:  # the page asks for one class of each image
        files["page"] = target / "label.html"
        page = LabelPage(
            pool=suggestions.pool,
            files=[s.file for s in suggestions.images],
            images=pictures(suggestions.source, [s.row for s in suggestions.images]),
            train=to_train,
            test=to_test,
            labeled=suggestions.labeled,
        )
        write_label_page(page, files["page"])
    for note in suggestions.notes:
        echo(f"note: {note}", err=True)
    if as_json:
        images = [{"file": s.file, "use": s.use} for s in suggestions.images]
        paths = {name: os.fspath(path) for name, path in files.items()}
        echo_json(
            json.dumps({"labeled": len(suggestions.labeled), "images": images, "files": paths}, ensure_ascii=False)
        )
        return
    labeled = f"; {len(suggestions.labeled)} have a label already" if suggestions.labeled else ""
    what = f"{counted(to_train, 'typical image')} to train on and {to_test:,} random to test on, of {suggestions.pool}{labeled}"
    if suggestions.several:
        data = opened.recipe.data
        echo(
            what,
            f"fill in the column classes of {files['suggestions']}, for instance car;bus, or nothing for an image without any",
            f"then: add the rows of use train to {data.labeled}, and put those of use test into the file that data.test names",
        )
        return
    echo(
        what,
        f"open {files['page']} in a browser and save labels.csv, or fill in the column class of {files['suggestions']}",
        f"then: edgekit train {opened.recipe_path} --set data.labels=labels.csv --run {opened.path}",
    )


def _keep_classes(path: Path, suggestions: Suggestions) -> None:
    """Refuse to replace a file in which somebody filled in classes that the recipe does not name yet.

    Raises:
        DataError: it holds such classes.
    """
    from edgekit.errors import DataError
    from edgekit.foreign import Unreadable, read_csv

    try:
        rows = [row for _, row in read_csv(path)[1]]
    except Unreadable:  # there is none yet, or it holds nothing that could be lost
        return
    column, labeled = _column(suggestions), suggestions.labeled
    filled = [row for row in rows if row.get(column, "").strip()]
    if suggestions.several:
        filled = [row for row in filled if row.get("file", "") not in labeled]
        use = "add its rows to the files in data.labeled and data.test first"
    else:
        filled = [row for row in filled if labeled.get(row.get("file", "")) != row[column].strip()]
        use = f"train with `--set data.labels={path}` first"
    if filled:
        count = f"{counted(len(filled), 'class', 'classes')} that the run was not trained with"
        raise DataError(
            f"{path}: would be replaced, but it holds {count}: {filled[0].get('file', '')}, {filled[0][column]}{', …' if len(filled) > 1 else ''}",
            f"{use}, or give another --output",
        )


def _write(suggestions: Suggestions, path: Path) -> None:
    """Write the suggestions as CSV (file, class or classes, use); images that have one class already come first."""
    from edgekit.files import write_bytes

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", _column(suggestions), "use"))
    if not suggestions.several:
        writer.writerows((name, label, "labeled") for name, label in suggestions.labeled.items())
    writer.writerows((s.file, "", s.use) for s in suggestions.images)
    write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))


def _column(suggestions: Suggestions) -> str:
    return "classes" if suggestions.several else "class"
