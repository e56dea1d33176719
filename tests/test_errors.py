"""What an error is about and what is wrong are kept apart, so that nobody has to cut a message."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

import edgekit
from edgekit import image_files
from edgekit.bench.remote.replies import FollowReply
from edgekit.children import ERROR_FILE
from edgekit.errors import DataError, EdgekitError
from edgekit.foreign import Unreadable, parse_json, parse_npz, read_bytes, understood

SOURCE = Path(edgekit.__file__).parent


def test_an_error_says_where_and_why() -> None:
    error = DataError("it is empty", "take it out", where=Path("a/b.jpg"))
    assert (error.where, error.reason, error.message) == ("a/b.jpg", "it is empty", "a/b.jpg: it is empty")
    assert str(error) == "a/b.jpg: it is empty (take it out)"
    plain = DataError("a/b.jpg: it is empty")
    assert (plain.where, plain.reason, plain.message) == ("", plain.message, "a/b.jpg: it is empty")


def test_the_same_error_about_something_else() -> None:
    error = DataError("it is empty", "take it out", where="<bytes>")
    other = error.at("row 3")
    assert (type(other), str(other), str(error.at())) == (
        DataError,
        "row 3: it is empty (take it out)",
        "it is empty (take it out)",
    )
    assert str(error) == "<bytes>: it is empty (take it out)"
    assert str(pickle.loads(pickle.dumps(other))) == str(other)
    unreadable = Unreadable("a.zip", "not a .zip: too short", detail="too short", too_large=True).at("b.zip")
    assert (str(unreadable), unreadable.detail, unreadable.too_large) == (
        "b.zip: not a .zip: too short",
        "too short",
        True,
    )


def test_where_and_why_are_one_line_each() -> None:
    error = EdgekitError("a\nreason", "a\nhint", where="a\n\x1b[31mplace")
    assert str(error) == "a \\u001b[31mplace: a reason (a hint)"


def raises(call: Callable[[], object]) -> Unreadable:
    with pytest.raises(Unreadable) as caught:
        call()
    return caught.value


def test_the_detail_of_what_cannot_be_understood_is_the_reason_alone(tmp_path: Path) -> None:
    def broken() -> None:
        with understood("x", "a table"):
            raise ValueError("7 columns")

    def forbidden() -> None:
        with understood("x", "a table"):
            raise PermissionError(13, "Permission denied")

    assert (raises(broken).reason, raises(broken).detail) == ("not a table: 7 columns", "7 columns")
    assert (raises(forbidden).reason, raises(forbidden).detail) == (
        "cannot be read: Permission denied",
        "Permission denied",
    )
    missing = raises(lambda: read_bytes(tmp_path / "no"))
    assert (missing.detail, missing.missing) == ("no such file", True)
    assert "Expecting" in raises(lambda: parse_json("{", "x")).detail
    damaged = raises(lambda: parse_npz((tmp_path / "x").open("w+b"), "x"))
    assert damaged.reason == f"not a NumPy archive: {damaged.detail}"


def test_an_image_in_something_else_is_named_as_its_container_names_it(tmp_path: Path) -> None:
    for source, name in (
        (b"no image", "<bytes>"),
        (tmp_path / "no.jpg", str(tmp_path / "no.jpg")),
        (tmp_path, str(tmp_path)),
    ):
        with pytest.raises(DataError) as caught:
            image_files.open_image(source)
        assert caught.value.where == name
        assert name not in caught.value.reason
    assert caught.value.reason == "is a folder, not an image"


def test_a_failed_command_tells_who_started_it_in_the_file_that_it_names(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgekit", "train", str(tmp_path / "no.yaml")]
    plain = subprocess.run(command, capture_output=True, text=True, check=False)
    assert plain.returncode == 2
    assert plain.stderr.startswith(f"error: {tmp_path / 'no.yaml'}: no such recipe")
    file = tmp_path / "error"
    told = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, ERROR_FILE: str(file)}
    )
    assert (told.returncode, told.stderr) == (2, "")
    assert f"error: {file.read_text()}\n" == plain.stderr
    nowhere = {**os.environ, ERROR_FILE: str(tmp_path / "no" / "error")}
    lost = subprocess.run(command, capture_output=True, text=True, check=False, env=nowhere)
    assert lost.stderr == plain.stderr, "where the file cannot be written, it is said aloud"


def test_nothing_cuts_a_message() -> None:
    """A reason is a field of its error; a failure is known by its exit code, not by how a line begins."""
    cuts = re.compile(
        r"\.(message|reason|missing)\.(remove|partition|rpartition|split|replace)|in \w+\.message|startswith\(\(?.error: "
    )
    for path in SOURCE.rglob("*.py"):
        assert not cuts.search(path.read_text()), path


@pytest.mark.parametrize("error", ["a\nerror: forged", "\x1b[2J", "x" * 5000, 7, None])
def test_a_device_cannot_forge_more_than_one_line_by_its_error(error: object) -> None:
    with pytest.raises(ValidationError):
        FollowReply.model_validate({"exit": 2, "files": [], "error": error})
    assert FollowReply.model_validate({"exit": 2, "files": []}).error == ""
