"""Remove folders of SSH connections that earlier versions of edgekit left behind: `edgekit-ssh-xxxxxxxx`, without a lock.

The socket in such a folder shows whether it is in use: the process that holds the connection listens on it. Other temporary
folders of those versions have neither a lock nor a socket, and an older edgekit may be using one, so they are not removed.
"""

from __future__ import annotations

import os
import re
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path

_NAME = re.compile(r"edgekit-ssh-[a-z0-9_]{8}")  # as `tempfile.mkdtemp` names it
# The files in such a folder: the socket (with a temporary name while ssh creates it) and ssh's standard error.
_SOCKET = re.compile(r"s(\.[A-Za-z0-9]{16})?")
_STDERR = "stderr"
# After a broken connection nobody listens for a while. An older edgekit retries for minutes, and each try changes the folder.
_QUIET_SECONDS = 24 * 3600.0


def remove_abandoned(parent: Path) -> None:
    """Remove this user's abandoned folders from `parent`: nobody listens, nothing changed for a day, and there are no other files."""
    with suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                with suppress(OSError):  # another user's, or just removed by another command
                    _remove_if_abandoned(Path(entry.path))


def _remove_if_abandoned(folder: Path) -> None:
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077 or time.time() - status.st_mtime < _QUIET_SECONDS:
        return
    files = list(folder.iterdir())
    if not all(_is_ours(file) for file in files):
        return
    sockets = [file for file in files if file.name != _STDERR]
    if any(_listens(file) for file in sockets):
        return
    for file in files:
        file.unlink()
    folder.rmdir()


def _is_ours(file: Path) -> bool:
    mode = file.lstat().st_mode
    return stat.S_ISREG(mode) if file.name == _STDERR else bool(_SOCKET.fullmatch(file.name)) and stat.S_ISSOCK(mode)


def _listens(path: Path) -> bool:
    """Whether a process may have the socket open; only a refused connection says no."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:  # a full queue, a too long path, …
            return True
    return True
