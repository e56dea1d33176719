"""Every block of the start page and of the tutorials, run as it stands where the reader would run it; long trainings in a smaller form."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

from edgekit.cli.main import cli
from edgekit.recipe import Recipe

Command = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
_BLOCK = re.compile(r"^```(?P<language>[a-z]*)(?P<options>[^\n]*)\n(?P<content>.*?)^```$", re.MULTILINE | re.DOTALL)
# What a reader is told instead of a promise that it was run. A fence's title says so on the page.
_NOT_RUN = ("no test runs this", "not run on GitHub yet", "In a clone")

# The least training that goes through every stage; the texts say what a real one takes.
SHORT = {"--time 10m": "--no-measure", "--time 20m": "--no-measure"}
SMALL: dict[str, Any] = {
    "data.image_size": 32,
    "pretrain.encoder": {"name": "resnet10", "width": 0.125, "stem": "strided"},
    "distill.student": {"name": "resnet10", "width": 0.125, "stem": "strided"},
    "supervised.search": False,
    "finetune.consistency": {"enabled": False},
    "hardware.precision": "fp32",
}
for _stage in ("pretrain", "finetune", "distill", "supervised"):
    SMALL |= {f"{_stage}.epochs": 2, f"{_stage}.batch_size": 40}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    language: str
    options: str
    content: str

    @property
    def says_not_run(self) -> bool:
        return any(mark in self.options for mark in _NOT_RUN)

    @property
    def runs(self) -> bool:
        return self.language in {"sh", "python"} and not self.says_not_run


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    name = path.relative_to(DOCS).as_posix()
    return [
        Block(name, found["language"], found["options"], found["content"])
        for found in _BLOCK.finditer(path.read_text())
    ]


TUTORIALS = sorted(path.stem for path in (DOCS / "tutorials").glob("*.md") if path.stem != "index")


def small_photos(line: str) -> str:
    """A call of make_photos.py that draws fewer photographs, unless it says how many."""
    return line if "--flat" in line else f"{line.rstrip()} --products 5 --unlabeled 80 --test 8"


class Reader:
    """Somebody who types what a page says, in a folder of their own.

    Args:
        folder: where they are.
        edgekit: the fixture that runs a command line in this process.
        replacements: what becomes shorter in a test.
    """

    def __init__(self, folder: Path, edgekit: Command, replacements: Mapping[str, str]) -> None:
        self.folder, self.edgekit, self.replacements = folder, edgekit, replacements
        self.state: dict[str, Any] = {"__name__": "tutorial"}
        programs = folder / ".programs"
        programs.mkdir()
        for name, module in (("edgekit", "-m edgekit"), ("python", "")):
            (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
            (programs / name).chmod(0o755)
        for name in ("examples", ".github"):
            (folder / name).symlink_to(ROOT / name)
        self.environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}

    def reads(self, block: Block) -> None:
        """Run a block. Every line of it must succeed."""
        content = block.content
        for long, short in self.replacements.items():
            content = content.replace(long, short)
        if block.language == "python":
            exec(compile(content, block.page, "exec"), self.state)
            return
        for line in content.replace("\\\n", " ").splitlines():
            self.types(line, block.page)

    def types(self, line: str, page: str) -> None:
        command, _, output = line.partition(" > ") if re.search(r" > [\w.]+$", line) else (line, "", "")
        if not command.startswith("edgekit "):
            shell = ["bash", "-c", small_photos(line) if "make_photos.py" in line else line]
            done = subprocess.run(
                shell, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{page}: {line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
            return
        code, out, err = self.edgekit(*shlex.split(command)[1:])
        assert code == 0, f"{page}: {line}\n{out[-2000:]}\n{err[-2000:]}"
        if output:
            (self.folder / output).write_text(out)
        if " init " in command:
            Recipe.read(self.folder / output, SMALL).write(self.folder / output)


def replacements(page: str, device: Callable[[], str]) -> dict[str, str]:
    """What a page's commands become in its test: less time, the SSH server of this machine, no demand on the accuracy."""
    found = {**SHORT, "--quick": "--quick --seconds 0.05", "--seconds 2": "--quick --seconds 0.05"}
    found["edgekit export runs/photos"] = "edgekit export runs/photos --max-drop 100 --jobs 1"
    if page == "raspberry-pi":
        found["ssh://pi@raspberrypi.local"] = f"{device()} --python {sys.executable}"
    if page == "five-ms":
        found["edgekit search recipe.yaml"] = (
            "edgekit search recipe.yaml --target onnx --precision fp32 --seconds 0.2 --max-drop 100 --rounds 1"
        )
        found["p50 < 5 ms"] = "p50 < 5 s"
    if (
        page == "public-checkpoint"
    ):  # nothing is fetched: a file stands for the published weights, and a run's encoder for the large network
        found['name: "timm:resnet18.a1_in1k", weights: pretrained'] = (
            'name: "timm:resnet18", weights: resnet18.safetensors, mean: 0.5, std: 0.25'
        )
        found |= {"timm:vit_small_patch14_dinov2.lvd142m": "runs/start", "pretrain.epochs=10": "pretrain.epochs=1"}
    if page == "good-parts":  # fewer parts, drawn in the same way
        found["edgekit export runs/parts"] = "edgekit export runs/parts --max-drop 100 --jobs 1"
        found['Path("parts"))'] = 'Path("parts"), train=60, test_good=20, test_each=4)'
    if page == "proof-of-concept":
        found |= {"data.labels=1,5,20": "data.labels=1,5", "batch_size=32,64": "batch_size=16,32"}
    return found


def test_every_block_says_whether_it_is_run() -> None:
    """A block is run by the test below or that of its page, shows an output, or its title tells the reader that nobody ran it."""
    pages = [DOCS / "index.md", *(DOCS / "tutorials").glob("*.md"), *(DOCS / "how-it-works").glob("*.md")]
    pages += [*(DOCS / "results").glob("*.md"), *(DOCS / "reference").glob("*.md")]
    found = [block for page in pages for block in blocks(page)]
    unclear = [
        f"{b.page}: {b.content[:50]}" for b in found if not b.runs and b.language != "text" and not b.says_not_run
    ]
    assert unclear == []
    run_elsewhere = [b.page for b in found if b.runs and not b.page.startswith(("tutorials/", "index.md"))]
    assert run_elsewhere == []
    assert sum(block.runs for block in found) > 20


def commands_of(text: str) -> Iterator[list[str]]:
    """The words of every line of a page's blocks that begins with `edgekit `, up to a comment, a pipe or a redirection."""
    for found in _BLOCK.finditer(text):
        for line in found["content"].replace("\\\n", " ").splitlines():
            if line.startswith("edgekit ") and "…" not in line.partition(" # ")[0]:
                lexer = shlex.shlex(line, posix=True, punctuation_chars="|&>")
                lexer.whitespace_split = True
                words = itertools.takewhile(lambda word: word not in {"|", "&", "&&", ">", ">>"}, lexer)
                yield [*words]


@pytest.mark.parametrize("page", sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")))
def test_the_commands_of_a_page_are_known(page: str) -> None:
    """Also of those pages whose blocks no test runs: every command, option and choice is one of the command line's."""
    for line in commands_of((DOCS / page).read_text()):
        words = line[1:]
        context = click.Context(cli, info_name="edgekit", resilient_parsing=True)
        command: click.Command = cli
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            child = command.get_command(context, words[0])
            assert child is not None, f"{page}: {line}: no command {words[0]}"
            command, words = child, words[1:]
        known = {name: option for option in command.params for name in (*option.opts, *option.secondary_opts)}
        known |= {"--help": None, "--debug": None}
        for word, value in itertools.pairwise([*words, ""]):
            if not re.match(r"--[a-z]", word):
                continue
            name = word.partition("=")[0]
            assert name in known, f"{page}: {line}: no option {name} of {command.name}"
            kind = getattr(known[name], "type", None)
            if isinstance(kind, click.Choice) and "=" not in word:
                assert value in kind.choices, f"{page}: {line}: {name} {value}"


# `make test` runs the same chain elsewhere; `make test-all` and the job that builds the site run every tutorial.
@pytest.mark.extra
@pytest.mark.parametrize("page", TUTORIALS)
def test_a_tutorial_from_top_to_bottom(
    page: str, tmp_path: Path, edgekit: Command, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), *sys.path]))

    def device() -> str:
        server = request.getfixturevalue("server")
        monkeypatch.setenv("PATH", server.client(tmp_path / "client"))
        return str(server.url)

    if page == "public-checkpoint":
        import timm
        from safetensors.torch import save_file

        save_file(timm.create_model("resnet18").state_dict(), tmp_path / "resnet18.safetensors")
    changes = replacements(page, device)
    reader = Reader(tmp_path, edgekit, changes)
    told = [block for block in blocks(DOCS / "tutorials" / f"{page}.md") if block.runs]
    assert told
    for block in told:
        reader.reads(block)
    for check in CHECKS.get(page, ()):
        assert list(tmp_path.glob(check)), f"{page} promises {check}"


# What a page says that the reader now has.
CHECKS = {
    "ten-labels": ["recipe.yaml", "runs/photos/export/bundle.json", "runs/photos/report.html"],
    "gallery": ["shop.gallery", "runs/photos/export-recognition/bundle.json"],
    "good-parts": ["runs/parts/report.html", "maps/good/000.png", "maps/swapped/001.png"],
    "five-ms": ["runs/photos-search/search.html", "runs/photos-search/winner.yaml"],
    "raspberry-pi": ["bench/*/onnx-fp32-b1.json", "bench/*/onnx-int8-b1.json"],
    "jetson": ["bundle/bundle.json"],
    "latency-gate": ["bench-gate/comparison.md"],
    "proof-of-concept": [
        "runs/photos/embed/*/map.html",
        "runs/photos/draws/1",
        "runs/photos/transfer/transfer.json",
        "runs/photos/report.html",
    ],
}


@pytest.mark.extra
def test_the_start_page_on_a_folder_of_photographs(
    tmp_path: Path, edgekit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), *sys.path]))
    reader = Reader(tmp_path, edgekit, replacements("index", lambda: ""))
    reader.types("python examples/make_photos.py photos/", "index.md")
    for block in [block for block in blocks(DOCS / "index.md") if block.runs]:
        reader.reads(block)
    assert (tmp_path / "runs/photos/report.html").is_file()
