"""Folders that earlier versions left in the machine's temporary folder: removed where nobody can be using them."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgekit.bench.remote.abandoned import remove_abandoned
from edgekit.bench.remote.address import Address
from edgekit.bench.remote.connection import Connection

LONG_AGO = time.time() - 40 * 86400


@pytest.fixture
def temporary() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # short enough for a socket
    yield folder
    shutil.rmtree(folder)


def left(parent: Path, name: str = "edgekit-ssh-abcdef_1", *, dead: bool = True) -> tuple[Path, socket.socket]:
    """A folder as an earlier version left it: a socket that nobody listens on any more, and what ssh said."""
    folder = parent / name
    folder.mkdir(mode=0o700)
    (folder / "stderr").write_text("Connection closed\n")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "s"))
    listener.listen()
    if dead:
        listener.close()
    os.utime(folder, (LONG_AGO, LONG_AGO))
    return folder, listener


def test_an_abandoned_folder_goes_with_the_next_connection(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    folder, _ = left(temporary)
    empty = temporary / "edgekit-ssh-00000000"
    empty.mkdir(mode=0o700)
    os.utime(empty, (LONG_AGO, LONG_AGO))
    connection = Connection(Address("nowhere"))
    try:
        assert not folder.exists()
        assert not empty.exists()
        assert [path.name.partition(".")[0] for path in temporary.iterdir()] == ["edgekit-ssh"]  # its own
    finally:
        connection.close()
    assert list(temporary.iterdir()) == []


def test_a_folder_whose_connection_lives_stays(temporary: Path) -> None:
    folder, listener = left(temporary, dead=False)
    with listener:
        remove_abandoned(temporary)
        assert sorted(path.name for path in folder.iterdir()) == ["s", "stderr"]
    remove_abandoned(temporary)
    assert not folder.exists()


def _young(folder: Path) -> None:
    os.utime(folder)  # an older edgekit may be trying again


def _foreign(folder: Path) -> None:
    (folder / "thesis.tex").write_text("mine")


def _folder(folder: Path) -> None:
    (folder / "s").unlink()
    (folder / "s").mkdir()


def _file(folder: Path) -> None:
    (folder / "s").unlink()
    (folder / "s").write_text("mine")


def _open(folder: Path) -> None:
    folder.chmod(0o755)


def _renamed(folder: Path) -> None:
    folder.rename(folder.with_name("edgekit-ssh-notes"))


def _linked(folder: Path) -> None:
    elsewhere = folder.with_name("elsewhere")
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)


@pytest.mark.parametrize("change", [_young, _foreign, _folder, _file, _open, _renamed, _linked])
def test_what_may_be_somebodys_stays(change: Callable[[Path], None], temporary: Path) -> None:
    folder, _ = left(temporary)
    change(folder)
    if change is not _young:
        for path in temporary.iterdir():
            os.utime(path, (LONG_AGO, LONG_AGO), follow_symlinks=False)
    before = sorted(temporary.rglob("*"))
    remove_abandoned(temporary)
    assert sorted(temporary.rglob("*")) == before
