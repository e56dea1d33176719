"""`edgekit label`: which images of a pile to label first."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.processors import tell_openmp
from edgekit.terminal import echo, echo_json

if TYPE_CHECKING:
    from edgekit.train.analysis.suggest import Suggestions


@click.group(name="label")
def command() -> None:
    """Choose the images of a pile to label first, and label them in a browser.

    \b
    For example:
      edgekit label suggest runs/pile --count 50
    """


@command.command(name="suggest")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--count", type=click.IntRange(1), default=50, show_default=True, help="Images to label for the training."
)
@click.option(
    "--test-count",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Held-out images that should have a label: they measure the models, within about 10 points at 100 images and 3 at 1,000.",
)
@click.option("--output", type=click.Path(path_type=Path), help="Folder for the files.  [default: RUN/label]")
@click.option("--json", "as_json", is_flag=True, help="Print the suggestions as JSON.")
def suggest_command(run: Path, count: int, test_count: int, output: Path | None, as_json: bool) -> None:
    """List the images to label first: typical ones from every part of the embedding (TypiClust), and random ones for the test set.

    RUN is pretrained on a pile of images (data.labeled: null). Writes suggestions.csv (file, class, use) and label.html, a page
    that shows the images one by one and saves labels.csv. Then set data.labels to that file in the recipe, and train again.
    Labels that the recipe names already count, so that the command can be repeated for more.

    \b
    For example:
      edgekit label suggest runs/pile --count 50
      edgekit label suggest runs/pile --count 20 --test-count 300
    """
    tell_openmp()
    from edgekit.run import Run

    opened = Run.open(run)

    from edgekit.report.label_page import ToLabel, write_label_page
    from edgekit.report.page import require_jinja2
    from edgekit.train.analysis.suggest import suggest
    from edgekit.train.analysis.thumbnails import pictures

    require_jinja2()
    found = suggest(opened, count, test_count)
    target = output or opened.path / "label"
    files = {"suggestions": target / "suggestions.csv", "page": target / "label.html"}
    _write(found, files["suggestions"])
    page = ToLabel(
        pool=found.pool,
        files=[s.file for s in found.images],
        images=pictures(found.source, [s.row for s in found.images]),
        train=sum(s.use == "train" for s in found.images),
        test=sum(s.use == "test" for s in found.images),
        labeled=found.labeled,
    )
    write_label_page(page, files["page"])
    for note in found.notes:
        echo(f"note: {note}", err=True)
    if as_json:
        images = [{"file": s.file, "use": s.use} for s in found.images]
        paths = {name: os.fspath(path) for name, path in files.items()}
        echo_json(json.dumps({"labeled": len(found.labeled), "images": images, "files": paths}, ensure_ascii=False))
        return
    have = f"; {len(found.labeled)} have a label already" if found.labeled else ""
    echo(
        f"{page.train} typical images to train on and {page.test} random ones to test on, of {found.pool}{have}",
        f"open {files['page']} in a browser and save labels.csv, or fill in the column class of {files['suggestions']}",
        f"then: edgekit train {opened.recipe_path} --set data.labels=labels.csv --run {opened.path}",
    )


def _write(found: Suggestions, path: Path) -> None:
    """The suggestions as CSV (file, class, use); what is labeled already stands first."""
    from edgekit.files import write_bytes

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "class", "use"))
    writer.writerows((name, label, "labeled") for name, label in found.labeled.items())
    writer.writerows((s.file, "", s.use) for s in found.images)
    write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))
