"""Tab-completion: paths for whatever may be a path, the variants of the bundle on the line, and nothing slow."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from edgekit.cli.main import cli
from tests.helpers.tiny_bundle import make_bundle

# Texts that are no paths of this machine: names, numbers, conditions, addresses, what is on a device.
_NO_PATHS = {
    "name", "overrides", "few_shot", "only", "budgets", "devices", "given", "python", "weights_key", "pixel_range", "mean", "std",
    "output_name", "capabilities", "max_ram", "max_flash", "ethos_u", "cpus", "classes", "conditions",
}  # fmt: skip


def complete(arguments: list[str], typed: str) -> list[tuple[str, str]]:
    """What a shell is offered, as pairs of type and value."""
    found = ShellComplete(cli, {}, "edgekit", "_EDGEKIT_COMPLETE").get_completions(arguments, typed)
    return [(item.type, item.value) for item in found]


@pytest.mark.parametrize(
    "arguments",
    [
        ["train"], ["ablate", "augmentations"], ["search"], ["augment", "preview"], ["init"], ["init", "p", "--labels"],
        ["init", "p", "--teacher"], ["export"], ["export", "m.onnx", "--calibrate"], ["export", "m.onnx", "--evaluate"],
        ["export", "m.onnx", "--weights"], ["export", "m.onnx", "--classes"], ["bench"], ["predict"], ["predict", "b"],
        ["predict", "b", "--gallery"], ["predict", "b", "--video"], ["predict", "b", "--embedding"], ["doctor"], ["report"],
        ["compare", "a"], ["embed", "r"], ["transfer", "r"], ["transfer", "r", "one"], ["gallery", "create"], ["gallery", "list"],
    ],
)  # fmt: skip
def test_the_shell_completes_files_and_folders(arguments: list[str]) -> None:
    assert complete(arguments, "runs/ti") == [("file", "runs/ti")]


def _commands(group: click.Group, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", found) for inner, found in _commands(command, context))
        else:
            yield name, command


def test_no_argument_or_option_that_may_be_a_path_is_left_without() -> None:
    left = [
        f"{name}: {parameter.name}"
        for name, command in _commands(cli, click.Context(cli))
        for parameter in command.params
        if isinstance(parameter.type, click.types.StringParamType)
        and parameter._custom_shell_complete is None
        and parameter.name not in _NO_PATHS
    ]
    assert left == []


def test_ablate_completes_its_own_word() -> None:
    assert complete(["ablate"], "aug") == [("plain", "augmentations")]
    assert complete(["ablate"], "") == [("file", "")]


@pytest.mark.parametrize("command", [["bench"], ["predict"], ["doctor"], ["gallery", "create"], ["gallery", "test"]])
def test_the_variants_of_the_bundle_on_the_line(command: list[str], tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "export")
    ids = [variant.id for variant in bundle.manifest.variants]
    assert len(ids) > 1
    assert complete([*command, str(bundle.path), "--variant"], "") == [("plain", id_) for id_ in ids]
    assert complete([*command, str(bundle.path), "more", "--variant"], "onnx") == [
        ("plain", id_) for id_ in ids if id_.startswith("onnx")
    ]
    assert complete([*command, "--variant"], "") == []
    assert complete([*command, str(tmp_path), "--variant"], "") == []


def test_the_variants_of_an_archive_and_of_a_damaged_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    bundle = make_bundle(tmp_path / "export", openvino=False)
    archive = shutil.make_archive(str(tmp_path / "export"), "zip", bundle.path)
    assert complete(["predict", archive, "--variant"], "") == [("plain", "onnx-fp32")]
    assert not (tmp_path / "cache").exists(), "nothing is extracted"
    Path(archive).write_bytes(b"PK no archive")
    assert complete(["predict", archive, "--variant"], "") == []
    (bundle.path / "bundle.json").write_text("{}")
    assert complete(["predict", str(bundle.path), "--variant"], "") == []


def test_nothing_heavy_is_loaded_and_nothing_is_printed(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "export", openvino=False)
    code = (
        "import sys\n"
        "from click.shell_completion import ShellComplete\n"
        "from edgekit.cli.main import cli\n"
        "completion = ShellComplete(cli, {}, 'edgekit', '_EDGEKIT_COMPLETE')\n"
        f"print([found.value for found in completion.get_completions(['bench', {str(bundle.path)!r}, '--variant'], '')])\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'openvino', 'lightning'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.splitlines(), done.stderr) == (["['onnx-fp32']", "[]"], "")
