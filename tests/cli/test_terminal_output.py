"""What is printed, whatever is in the names, and wherever it goes: no control character, no forged line, valid JSON."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgekit.bundle import Bundle, write_manifest
from edgekit.errors import EdgekitError
from edgekit.terminal import echo, echo_json, new_console
from edgekit.text import quoted, shortened, visible
from tests.helpers.tiny_bundle import CLASSES, make_bundle

Command = Callable[..., tuple[int, str, str]]
SOURCE = Path(__file__).parents[2] / "src" / "edgekit"
EVIL = "cat\x1b[2J\x1b]0;title\x07\nerror: all is lost\r\x9b31m\u202e[red]x[/nothing] :smile:"


def controls(text: str) -> set[str]:
    """Control and formatting characters of a text, but for the ends of its lines."""
    return {c for c in text if unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} or c in "\u202e\u2066\u200f"} - {
        "\n"
    }


@given(st.text(st.characters(exclude_categories=())))
def test_visible_text_is_safe_and_means_the_same_in_json(text: str) -> None:
    shown = visible(text)
    assert not controls(shown)
    assert "\n" not in shown
    shown.encode()  # no lone surrogates
    assert visible(shown) == shown
    assert json.loads(visible(json.dumps(text, ensure_ascii=False))) == text


@given(st.text(max_size=400), st.integers(20, 100))
def test_shortened_text_is_bounded_and_keeps_both_ends(text: str, limit: int) -> None:
    short = shortened(text, limit)
    assert len(short) <= limit + 40
    assert short == text if len(text) <= limit else short.startswith(text[: limit // 2])


HUGE = {
    "digits": 10**5000, "text": "x" * 10**7, "nested": [[[[[[1]]]]]] * 1000, "mapping": {"k" * 9999: "v" * 9999}, "set": {1, 2},
    "nothing": None, "nan": float("nan"),
}  # fmt: skip


@pytest.mark.parametrize("value", HUGE.values(), ids=HUGE)
def test_a_quoted_value_is_short_whatever_it_is(value: object) -> None:
    assert len(quoted(value)) <= 250


def test_an_error_is_one_line_of_bounded_length() -> None:
    error = EdgekitError(f"{EVIL}: " + "x" * 100_000, EVIL)
    assert not controls(str(error))
    assert "\n" not in str(error)
    assert len(str(error)) < 5000


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_and_tables_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.table import Table
    from rich.text import Text

    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    echo(EVIL, "second")
    console = new_console(width=200)
    console.print(EVIL)
    console.print(Text(EVIL, style="red"))
    table = Table("name", title=EVIL)
    table.add_row(EVIL)
    table.add_row(Text(EVIL))
    console.print(table)
    printed = terminal.getvalue()
    assert "[red]x[/nothing] :smile:" in printed  # neither markup nor emoji codes
    # What is left of escape sequences is Rich's own: colors and weights.
    assert re.search(r"\x1b\[[0-9;]*m", printed)
    assert not controls(re.sub(r"\x1b\[[0-9;]*m", "", printed))
    assert not [line for line in printed.splitlines() if line.startswith("error:")]


def test_json_is_valid_and_the_same_in_any_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"name": EVIL + "é×\U0001f600", "values": [1.5, None]}
    for encoding in ("utf-8", "ascii", "latin-1"):
        for text in (json.dumps(content, ensure_ascii=False, indent=2), json.dumps(content)):
            binary = io.BytesIO()
            monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(binary, encoding=encoding))
            echo_json(text)
            printed = binary.getvalue().decode(encoding)
            assert json.loads(printed) == content
            assert not controls(printed)


def test_nothing_else_writes_to_the_streams() -> None:
    """`echo`, `echo_json`, `echo_file` and `new_console` are the ways out; the side of `bench --device` that speaks to its own other
    side is no printing."""
    forbidden = re.compile(r"click\.s?echo|(?<![\w.])print\(|(?<![\w.])Console\(|sys\.std(out|err)\.(write|buffer)")
    allowed = {SOURCE / "terminal.py", SOURCE / "bench/remote/on_device.py", SOURCE / "bench/remote/connection.py"}
    found = [
        f"{path.relative_to(SOURCE)}:{number}: {line.strip()}"
        for path in sorted(SOURCE.rglob("*.py"))
        if path not in allowed
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if forbidden.search(line)
    ]
    assert not found


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose name and classes, and images whose names, are forged."""
    folder = tmp_path_factory.mktemp("evil")
    bundle = make_bundle(folder / "bundle", openvino=False)
    classes = [f"{EVIL}{i}" for i in range(len(CLASSES))]
    write_manifest(folder / "bundle", bundle.manifest.model_copy(update={"name": EVIL, "classes": classes}))
    images = folder / "images"
    images.mkdir()
    random = np.random.default_rng(0)
    for name in (b"a\x1b[2Jerror: x.png", b"b\nerror: y.png", b"c\xff.png"):
        with open(os.fsencode(images) + b"/" + name, "wb") as stream:
            Image.fromarray(random.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(stream, "PNG")
    (images / "d\x1b[31m\n.png").write_bytes(b"no image")
    return folder


def _clean(out: str, err: str, errors: int) -> None:
    assert not controls(out + err)
    assert len([line for line in (out + err).splitlines() if line.startswith("error:")]) == errors


def test_predict_prints_forged_names_in_one_line_each(evil: Path, edgekit: Command) -> None:
    code, out, err = edgekit("predict", evil / "bundle", evil / "images")
    assert code == 1, err
    _clean(out, err, 1)  # of the file that is no image
    assert len(out.splitlines()) == 3
    code, out, err = edgekit("predict", evil / "bundle", evil / "images", "--json", "--top", "6")
    _clean(out, err, 1)
    lines = [json.loads(line) for line in out.splitlines()]
    assert {entry["class"] for line in lines for entry in line["classes"]} == set(
        Bundle.open(evil / "bundle").manifest.classes
    )
    assert {line["file"].rpartition("/")[2] for line in lines} == {
        "a\x1b[2Jerror: x.png",
        "b\nerror: y.png",
        "c\udcff.png",
    }


@pytest.mark.parametrize("arguments", [["doctor"], ["bench", "--quick"]])
def test_so_do_the_tables_of(arguments: list[str], evil: Path, edgekit: Command, tmp_path: Path) -> None:
    more = ["--output", str(tmp_path)] if arguments[0] == "bench" else []
    code, out, err = edgekit(arguments[0], evil / "bundle", *arguments[1:], *more)
    assert code == 0, err
    _clean(out, err, 0)


def _run(arguments: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, **options.pop("env", {})}  # type: ignore[dict-item]
    return subprocess.run(
        [sys.executable, "-m", "edgekit", *arguments], stderr=subprocess.PIPE, env=environment, check=False,
        **{"stdout": subprocess.PIPE, **options},
    )  # type: ignore[call-overload]  # fmt: skip


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_lacks_characters(encoding: str, evil: Path, tmp_path: Path) -> None:
    for arguments in (["predict", "--threshold", "1"], ["doctor"], ["bench", "--quick", "--output", str(tmp_path)]):
        extra = [str(evil / "images" / "b\nerror: y.png")] if arguments[0] == "predict" else []
        done = _run([arguments[0], str(evil / "bundle"), *extra, *arguments[1:]], env={"PYTHONIOENCODING": encoding})
        assert done.returncode == 0, done.stderr.decode(encoding)
        done.stdout.decode(encoding)
        assert b"Traceback" not in done.stderr


def test_a_recipe_is_utf_8_whatever_the_terminal_is(tmp_path: Path) -> None:
    """A shell puts it into a file, where a `?` for an é would name another folder."""
    folder = tmp_path / "Vögel"
    for name in ("é", "ü"):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            Image.new("RGB", (16, 16), (i, 20 * i, 0)).save(folder / name / f"{i}.png")
    done = _run(["init", str(folder), "--no-measure"], env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert str(folder) in done.stdout.decode("utf-8")


@pytest.mark.parametrize("arguments", [["--help"], ["schema", "recipe"], ["doctor"], ["predict"]])
def test_a_full_disk_for_standard_output_is_one_line(arguments: list[str], evil: Path) -> None:
    extra = [str(evil / "bundle"), str(evil / "images" / "b\nerror: y.png")] if arguments == ["predict"] else []
    with open("/dev/full", "wb") as full:
        done = _run([*arguments, *extra], stdout=full)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.decode().splitlines() if line.startswith("error:")]
    assert lines == [line for line in done.stderr.decode().splitlines() if "o space left" in line]
    assert len(lines) == 1
    assert "standard output" in lines[0]
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


def test_a_closed_standard_output_is_no_error() -> None:
    done = subprocess.run(f"{sys.executable} -m edgekit --help >&-", shell=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr


def test_lines_for_a_file_get_there_while_a_terminal_shows_the_progress(evil: Path, tmp_path: Path) -> None:
    terminal, slave = os.openpty()
    command = [sys.executable, "-m", "edgekit", "predict", str(evil / "bundle"), str(tmp_path), "--json"]
    for i in range(2):
        Image.fromarray(np.full((20, 20, 3), 90 * i, np.uint8)).save(tmp_path / f"{i}.png")
    shown = b""
    with (tmp_path / "lines").open("wb") as stream, subprocess.Popen(command, stdout=stream, stderr=slave) as running:
        os.close(slave)
        try:
            while part := os.read(terminal, 4096):
                shown += part
        except OSError:  # how Linux says that the other end is closed
            pass
        os.close(terminal)
    assert running.returncode == 0, shown
    assert b"2/2" in shown
    assert [json.loads(line)["file"] for line in (tmp_path / "lines").read_text().splitlines()] == [
        str(tmp_path / f"{i}.png") for i in range(2)
    ]


def test_nobody_reads_any_more() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m edgekit schema recipe | true; echo ${{PIPESTATUS[0]}}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() in {"0", "141"}
    assert not done.stderr


_HOMELESS = """
import os, pwd, sys
def unknown(uid): raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = unknown
for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME", "EDGEKIT_CACHE"):
    os.environ.pop(name, None)
sys.argv = ["edgekit", *sys.argv[1:]]
from edgekit.cli.main import main
if __name__ == "__main__":
    main()
"""


def test_without_a_home_and_a_name(evil: Path, tmp_path: Path) -> None:
    """`env -u HOME` with a user id that is in no list, as containers have it: a bundle that is a .zip needs the cache."""
    import zipfile

    with zipfile.ZipFile(tmp_path / "bundle.zip", "w") as archive:
        for path in (evil / "bundle").iterdir():
            archive.write(path, path.name)
    (tmp_path / "homeless.py").write_text(_HOMELESS)
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    for arguments in (["doctor", "bundle.zip"], ["predict", "bundle.zip", str(evil / "images" / "b\nerror: y.png")]):
        done = subprocess.run(
            [sys.executable, "homeless.py", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    home = tmp_path / "tmp" / f"edgekit-home-{os.getuid()}"
    assert home.stat().st_mode & 0o777 == 0o700
    # Somebody else's folder of that name is not used.
    home.chmod(0o777)
    done = subprocess.run(
        [sys.executable, "homeless.py", "doctor", "bundle.zip"], cwd=tmp_path, env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "set HOME" in done.stderr
