"""Record the commands of `make demo` as an SVG that plays once, like a terminal.

    python tools/record_demo.py docs/images/demo.svg --outputs docs/recorded

Every line is what a command printed on standard output, at the time (shortened) when it did. The animation is CSS alone, so GitHub plays it in
an `<img>`; for readers who want no motion, and where CSS is not played, all lines are there. `--from FOLDER` uses outputs that were captured
before: a file `1-train.txt` for each command. Its first line is the command; every other line begins with the seconds since the command's
start, and a tab. Record on a machine that does nothing else: the picture shows the latencies of the bench.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path

COMMANDS = (
    "edgekit train examples/digits.yaml",
    "edgekit evaluate runs/digits",
    "edgekit export runs/digits",
    "edgekit bench runs/digits/export --quick",
    "edgekit report runs/digits",
)
COLUMNS, ROWS, CHARACTER, LINE, PAD = 100, 30, 8.6, 20, 16
LONGEST_WAIT = 1.2  # seconds; a training is not waited for
PAUSE = 1.5  # seconds after a command, to read what it printed
Line = tuple[float, str, bool]  # seconds, text, whether it is a command


def capture(command: str, folder: Path, number: int) -> None:
    """Run a command, and write its lines with their times into `folder`."""
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "NO_COLOR": "1"}
    start = time.monotonic()
    # Not in a shell: the words are those of COMMANDS.
    with subprocess.Popen(
        [sys.executable, "-m", *command.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        lines = [f"{time.monotonic() - start:.2f}\t{line.rstrip()}" for line in process.stdout]
    if process.returncode:
        sys.exit(f"{command}: exit code {process.returncode}")
    (folder / f"{number}-{command.split()[1]}.txt").write_text("\n".join([command, *lines, ""]))


def timeline(recordings: Sequence[str]) -> list[Line]:
    """Return every line with the second at which it appears, waits shortened."""
    found: list[Line] = []
    now = 0.5
    for recording in recordings:
        command, *lines = recording.splitlines()
        found.append((now, command, True))
        now, before = now + 0.8, 0.0
        for line in lines:
            seconds, _, text = line.partition("\t")
            now += min(LONGEST_WAIT, max(0.05, float(seconds) - before))
            before = float(seconds)
            found.append((now, text, False))
        now += PAUSE
    return found


def draw(lines: Sequence[Line]) -> str:
    """Return the SVG: a screen of ROWS lines on which lines appear, and which scrolls when it is full."""
    total = lines[-1][0] + 4
    width, height = round(COLUMNS * CHARACTER + 2 * PAD), ROWS * LINE + 2 * PAD + 24
    scrolls = [(second, i + 1 - ROWS) for i, (second, _, _) in enumerate(lines) if i + 1 > ROWS]
    keys = ["0% { transform: none }"]
    for second, by in scrolls:
        keys.append(f"{100 * second / total:.2f}% {{ transform: translateY({-by * LINE}px) }}")
    last = f"translateY({-max(0, len(lines) - ROWS) * LINE}px)"
    rows = []
    for i, (second, text, command) in enumerate(lines):
        shown = f"$ {text}" if command else text
        kind = ' class="c"' if command else ""
        rows.append(f'<text{kind} y="{(i + 1) * LINE - 5}" style="--t:{second:.2f}s">{escape(shown) or " "}</text>')
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">
<title>make demo: what the five commands print</title>
<style>
text {{ font: 14px/1 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #d5dbe1; white-space: pre }}
.c {{ fill: #4db6ac; font-weight: 700 }}
.lines {{ transform: {last} }}
@media (prefers-reduced-motion: no-preference) {{
  text {{ animation: show 0.01s step-end var(--t) both }}
  .lines {{ animation: scroll {total:.1f}s step-end both }}
}}
@keyframes show {{ from {{ opacity: 0 }} to {{ opacity: 1 }} }}
@keyframes scroll {{ {" ".join(keys)} 100% {{ transform: {last} }} }}
</style>
<rect width="{width}" height="{height}" rx="8" fill="#1c2128"/>
<g fill="#57606a"><circle cx="20" cy="18" r="5"/><circle cx="38" cy="18" r="5"/><circle cx="56" cy="18" r="5"/></g>
<svg x="{PAD}" y="{PAD + 20}" width="{width - 2 * PAD}" height="{ROWS * LINE}"><g class="lines">
{chr(10).join(rows)}
</g></svg>
</svg>
"""


def main() -> None:
    """Run or read the demo's commands, and write the SVG."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("svg", type=Path)
    parser.add_argument("--from", dest="folder", type=Path, help="captured outputs, instead of running the commands")
    parser.add_argument(
        "--outputs",
        type=Path,
        help="also write what each command printed here, for its page of the site: docs/recorded",
    )
    options = parser.parse_args()
    folder = options.folder or Path("build/demo-recording")
    if options.folder is None:
        folder.mkdir(parents=True, exist_ok=True)
        for number, command in enumerate(COMMANDS, 1):
            capture(command, folder, number)
    recordings = [path.read_text() for path in sorted(folder.glob("[0-9]-*.txt"))]
    if not recordings:
        sys.exit(f"{folder}: no captured output (1-train.txt, …)")
    options.svg.write_text(draw(timeline(recordings)))
    for recording in recordings if options.outputs else ():
        command, *lines = recording.splitlines()
        options.outputs.mkdir(parents=True, exist_ok=True)
        shown = [f"$ {command}", *(line.partition("\t")[2].rstrip() for line in lines)]
        (options.outputs / f"{command.split()[1]}.txt").write_text("\n".join(shown).rstrip() + "\n")


if __name__ == "__main__":
    main()
