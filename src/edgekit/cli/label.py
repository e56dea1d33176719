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

    \b
    For example:
      edgekit label suggest runs/pile --count 50
      edgekit label suggest runs/pile --count 20 --test-count 300
    """
    configure_openmp()
    from edgekit.run import Run

    opened = Run.open(run)

    from edgekit.report.label_page import LabelPage, write_label_page
    from edgekit.report.page import require_jinja2
    from edgekit.train.analysis.suggest import suggest
    from edgekit.train.analysis.thumbnails import pictures

    require_jinja2()
    suggestions = suggest(opened, count, test_count)
    target = output or opened.path / "label"
    files = {"suggestions": target / "suggestions.csv", "page": target / "label.html"}
    _keep_classes(files["suggestions"], suggestions)
    _write(suggestions, files["suggestions"])
    page = LabelPage(
        pool=suggestions.pool,
        files=[s.file for s in suggestions.images],
        images=pictures(suggestions.source, [s.row for s in suggestions.images]),
        train=sum(s.use == "train" for s in suggestions.images),
        test=sum(s.use == "test" for s in suggestions.images),
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
    echo(
        f"{page.train} typical images to train on and {page.test} random ones to test on, of {suggestions.pool}{labeled}",
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
    filled = [
        row
        for row in rows
        if row.get("class", "").strip() and suggestions.labeled.get(row.get("file", "")) != row["class"].strip()
    ]
    if filled:
        count = f"{counted(len(filled), 'class', 'classes')} that the run was not trained with"
        raise DataError(
            f"{path}: would be replaced, but it holds {count}: {filled[0].get('file', '')}, {filled[0]['class']}{', …' if len(filled) > 1 else ''}",
            f"train with `--set data.labels={path}` first, or give another --output",
        )


def _write(suggestions: Suggestions, path: Path) -> None:
    """Write the suggestions as CSV (file, class, use); images that have a label already come first."""
    from edgekit.files import write_bytes

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "class", "use"))
    writer.writerows((name, label, "labeled") for name, label in suggestions.labeled.items())
    writer.writerows((s.file, "", s.use) for s in suggestions.images)
    write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))
