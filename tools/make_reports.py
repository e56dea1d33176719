"""Make the reports that the documentation shows, each from the commands that a reader would type.

    python tools/make_reports.py                      # all: some ten minutes on two idle cores
    python tools/make_reports.py textures --work DIR  # one; what DIR holds of it already is not computed again
    python tools/make_reports.py --picture            # only docs/images/report.png: the top of docs/reports/digits.html in Chromium

Each is one file in `docs/reports/`. Make them on a machine that does nothing else: they show its latencies. The picture is drawn anew with
`digits`; it needs Chromium and the Python package playwright.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REPORTS = ROOT / "docs" / "reports"
PICTURE = ROOT / "docs" / "images" / "report.png"
PICTURE_SIZE = (1120, 1340)
MOST_BYTES = 500 * 1024  # as of every file that is tracked
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass(frozen=True)
class Shown:
    """A report of the documentation.

    Attributes:
        commands: lines that a reader would type in a folder with `examples/`.
        page: the file that they leave behind.
    """

    commands: tuple[str, ...]
    page: str


SHOWN = {
    "digits": Shown(
        (
            "edgekit train examples/digits.yaml",
            "edgekit evaluate runs/digits",
            "edgekit export runs/digits",
            "edgekit bench runs/digits/export --quick",
            "edgekit report runs/digits",
        ),
        "runs/digits/report.html",
    ),
    "textures": Shown(
        (
            "edgekit init textures --task anomaly --no-measure --output textures.yaml --force",
            "edgekit train textures.yaml",
            "edgekit evaluate runs/textures",
            "edgekit export runs/textures",
            "edgekit bench runs/textures/export --quick",
            "edgekit report runs/textures",
        ),
        "runs/textures/report.html",
    ),
    "digits-map": Shown(
        ("edgekit train examples/digits.yaml", "edgekit embed runs/digits digits --points 1000"),
        "runs/digits/embed/digits-encoder/map.html",
    ),
}


def make(name: str, work: Path) -> Path:
    """Run the commands of a report in `work`, and copy its page into the documentation.

    Args:
        name: one of `SHOWN`.
        work: a folder; what it holds of the run already is not computed again.
    """
    shown = SHOWN[name]
    if not (work / "examples").exists():
        (work / "examples").symlink_to(ROOT / "examples")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    for line in shown.commands:
        sys.stdout.write(f"$ {line}\n")
        sys.stdout.flush()
        words = shlex.split(line)
        done = subprocess.run([sys.executable, "-m", *words], cwd=work, env=environment, check=False)
        if done.returncode:
            sys.exit(f"{line}: exit code {done.returncode}")
    page = work / shown.page
    if page.stat().st_size > MOST_BYTES:
        sys.exit(f"{page}: {page.stat().st_size:,} bytes, more than {MOST_BYTES:,}")
    REPORTS.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(page, REPORTS / f"{name}.html"))


def draw(browser: Any) -> Path:
    """Draw the top of the digits' report, in the light theme, as the picture of the README.

    The picture holds the SHA-256 of the page that it shows, so that a test sees which of the two is older.

    Args:
        browser: Chromium, as playwright gives it.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    page = REPORTS / "digits.html"
    width, height = PICTURE_SIZE
    with browser.new_context(viewport={"width": width, "height": height}, color_scheme="light") as context:
        context.set_default_timeout(0)  # however busy the machine is
        tab = context.new_page()
        tab.goto(page.as_uri())
        pixels = tab.screenshot()
    note = PngInfo()
    note.add_text("page", hashlib.sha256(page.read_bytes()).hexdigest())
    with Image.open(io.BytesIO(pixels)) as picture:
        picture.convert("RGB").quantize(256).save(PICTURE, optimize=True, pnginfo=note)
    return PICTURE


def picture() -> Path:
    """Start Chromium and draw the picture of the README."""
    program = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if program is None:
        sys.exit(f"the picture needs Chromium: none of {', '.join(_BROWSERS)} is on the PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"], timeout=0)
        try:
            return draw(browser)
        finally:
            browser.close()


def main() -> None:
    """Make the reports that the command line names, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SHOWN)}; default: all")
    parser.add_argument("--work", type=Path, help="where to run the commands; default: a temporary folder")
    parser.add_argument("--picture", action="store_true", help="only draw the picture of the README")
    options = parser.parse_args()
    if options.picture:
        sys.stdout.write(f"{picture().relative_to(ROOT)}: {PICTURE.stat().st_size:,} bytes\n")
        return
    if unknown := [name for name in options.names if name not in SHOWN]:
        parser.error(f"no report {unknown[0]}: there are {', '.join(SHOWN)}")
    with tempfile.TemporaryDirectory(prefix="edgekit-reports-") as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        for name in options.names or SHOWN:
            path = make(name, work)
            sys.stdout.write(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes\n")
            if name == "digits":
                sys.stdout.write(f"{picture().relative_to(ROOT)}: {PICTURE.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
