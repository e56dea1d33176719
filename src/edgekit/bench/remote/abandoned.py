"""Folders of SSH connections that earlier versions of edgekit left behind: `edgekit-ssh-xxxxxxxx`, without a lock that tells whether one is used.

Here it can be known without a lock: the process that holds a connection listens on the socket in its folder. Nothing else of those versions
is removed: their other temporary folders have neither a lock nor a socket, and an older edgekit may be at work in one.
"""

from __future__ import annotations

import os
import re
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path

_NAME = re.compile(r"edgekit-ssh-[a-z0-9_]{8}")  # as `tempfile.mkdtemp` drew it
# What is in one: the socket (while ssh makes it, under a name of its own) and what ssh said.
_SOCKET = re.compile(r"s(\.[A-Za-z0-9]{16})?")
_SAID = "stderr"
# Between a connection that broke and the next one nobody listens. An older edgekit tries again for minutes, and each try changes the folder.
_QUIET_SECONDS = 24 * 3600.0


def remove_abandoned(parent: Path) -> None:
    """Remove such folders of this user's from `parent`: those that hold nothing else, where nobody listens and nothing changed for a day."""
    with suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                with suppress(OSError):  # somebody else's, or just removed by another command
                    _remove_if_abandoned(Path(entry.path))


def _remove_if_abandoned(folder: Path) -> None:
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077 or time.time() - status.st_mtime < _QUIET_SECONDS:
        return
    files = list(folder.iterdir())
    if not all(_is_ours(file) for file in files):
        return
    sockets = [file for file in files if file.name != _SAID]
    if any(_listens(file) for file in sockets):
        return
    for file in files:
        file.unlink()
    folder.rmdir()


def _is_ours(file: Path) -> bool:
    mode = file.lstat().st_mode
    return stat.S_ISREG(mode) if file.name == _SAID else bool(_SOCKET.fullmatch(file.name)) and stat.S_ISSOCK(mode)


def _listens(path: Path) -> bool:
    """Whether a process may have a socket open: everything but a refusal says so."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:  # a full queue, a path that is too long, …
            return True
    return True
