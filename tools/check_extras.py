"""Install the wheel with each extra alone, each in an environment of its own, and check that every command works or says what is missing.

    python tools/check_extras.py                    # the small extras: minutes
    python tools/check_extras.py --extra train      # one: PyTorch alone takes gigabytes
    python tools/check_extras.py --run RUN --bundle BUNDLE    # also the commands that need a complete run, or a bundle with an embedding

A command may end with exit code 0, or 2 and one line that names the extra to install, such as `[ort]`. Anything else is a fault: a traceback, another
exit code, or a line that does not say what to install. Exit code 1 if there is a fault. It needs uv.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SMALL = ("", "ort", "openvino", "litert", "report", "heic", "video", "loadgen")
COMMANDS = (
    "--help",
    "doctor",
    "schema recipe",
    "export --list",
    "init photos --no-measure",
    "train recipe.yaml",
    "evaluate RUN",
    "embed RUN photos",
    "transfer RUN photos",
    "ablate data.labels=1,2 recipe.yaml",
    "search recipe.yaml --budget p50<5ms --candidate resnet10 --rounds 1 --seconds 0.1 --prune",
    "export timm:resnet18 --calibrate photos",
    "label suggest RUN",
    "predict BUNDLE photos",
    "predict BUNDLE --video clip.avi",
    "bench BUNDLE --quick --seconds 0.1",
    "gallery create BUNDLE photos --replace",
    "report RUN",
)
_EXTRA = re.compile(r"\[[a-z-]+\]|\bextra\b|pip install")
# What is wrong with these inputs beside a missing package is no fault of the installation.
_INPUT = re.compile(r"clip\.avi|too few|labels")


def run(*command: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder."""
    return subprocess.run([*map(str, command)], cwd=folder, capture_output=True, text=True, check=False)


def checked(python: Path, folder: Path) -> Iterator[str]:
    """Yield one line for every command that neither works nor says what to do."""
    for line in COMMANDS:
        if missing := [name for name in ("RUN", "BUNDLE") if name in line and not (folder / name).exists()]:
            sys.stdout.write(f"  unchecked {line}: no --{missing[0].lower()} is given\n")
            continue
        done = run(python, "-m", "edgekit", *line.split(), folder=folder)
        errors = [text for text in done.stderr.splitlines() if text.startswith(("error:", "internal error"))]
        said = errors[-1] if errors else ""
        fine = done.returncode == 0 or (
            done.returncode in {1, 2} and len(errors) <= 1 and (_EXTRA.search(said) or _INPUT.search(said))
        )
        sys.stdout.write(f"  {'ok   ' if fine else 'FAULT'} {line}: {said or f'exit code {done.returncode}'}\n")
        if not fine or "Traceback" in done.stderr:
            yield line


def prepare(folder: Path, run_folder: Path | None, bundle: Path | None) -> None:
    """Write what the commands name: images, a recipe, and a run and a bundle where there is one."""
    import shutil

    run(
        sys.executable,
        ROOT / "examples/make_photos.py",
        "photos",
        "--products",
        "2",
        "--per-class",
        "10",
        "--flat",
        folder=folder,
    )
    # Six epochs: one more than the warm-up.
    recipe = re.sub(r"(?<!_)epochs: \d+", "epochs: 6", (ROOT / "examples/digits.yaml").read_text())
    (folder / "recipe.yaml").write_text(recipe)
    (folder / "clip.avi").write_bytes(b"")
    for source, name in ((run_folder, "RUN"), (bundle, "BUNDLE")):
        if source is not None:
            shutil.copytree(source, folder / name)


def main() -> None:
    """Build the wheel, install it with each extra, and run the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extra", action="append", help="only this one; '' is none; may be repeated")
    parser.add_argument("--run", type=Path, help="a complete run, for the commands that take one")
    parser.add_argument("--bundle", type=Path, help="a bundle with an embedding, for the commands that take one")
    options = parser.parse_args()
    faults: list[str] = []
    with tempfile.TemporaryDirectory(prefix="edgekit-extras-") as name:
        folder = Path(name)
        prepare(folder, options.run, options.bundle)
        built = run("uv", "build", "--quiet", "--wheel", "--out-dir", folder / "dist", folder=ROOT)
        if built.returncode:
            sys.exit(built.stderr)
        [wheel] = (folder / "dist").glob("*.whl")
        for extra in options.extra if options.extra is not None else SMALL:
            sys.stdout.write(f"[{extra}]\n" if extra else "without an extra\n")
            environment = folder / f"venv-{extra}"
            for command in (
                ["venv", "--quiet", environment],
                ["pip", "install", "--quiet", "--python", environment / "bin/python"],
            ):
                more = [f"{wheel}[{extra}]" if extra else wheel] if command[0] == "pip" else []
                if (done := run("uv", *command, *more, folder=folder)).returncode:
                    sys.exit(done.stderr)
            faults += [f"[{extra}] {line}" for line in checked(environment / "bin/python", folder)]
    sys.exit("\n".join(["", "faults:", *faults]) if faults else 0)


if __name__ == "__main__":
    main()
