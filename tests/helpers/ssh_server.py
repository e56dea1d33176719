"""A real OpenSSH server on a loopback address, with throw-away keys, and a `ssh` on PATH that knows it."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from tests.helpers.patience import until


class SshServer:
    """An `sshd` of this user's own, and the client configuration of somebody who has its host key and a key to log in.

    Args:
        folder: for keys, configurations, and the device's cache.
        sshd: the program.
        environment: set for what runs in its sessions, beside EDGEKIT_CACHE.
        options: further lines of its configuration, before all others: the first one wins.
    """

    def __init__(self, folder: Path, sshd: str, environment: dict[str, str] | None = None, options: str = "") -> None:
        self.folder, self._sshd = folder, sshd
        folder.mkdir(parents=True, exist_ok=True)
        self.cache = folder / "the device's cache"
        for name in ("host", "user"):
            keygen("-f", str(folder / name))
        shutil.copy(folder / "user.pub", folder / "authorized_keys")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        set_env = {"EDGEKIT_CACHE": str(self.cache), "OMP_NUM_THREADS": "1", **(environment or {})}
        written = " ".join(f'"{key}={value}"' for key, value in set_env.items())
        (folder / "sshd_config").write_text(
            f"""{options}
ListenAddress 127.0.0.1
Port {self.port}
HostKey {folder}/host
AuthorizedKeysFile "{folder}/authorized_keys"
PidFile none
UsePAM no
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
SetEnv {written}
"""
        )
        self.know(folder / "host.pub")
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"

    @property
    def device(self) -> str:
        """The name of the device's sub-folder."""
        return f"{getpass.getuser()}@127.0.0.1-{self.port}"

    def know(self, key: Path) -> None:
        """Make a host key the one that the client knows."""
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {key.read_text()}")

    def client(self, folder: Path, options: str = "") -> str:
        """Write a `ssh` that uses this server's keys into `folder`; gives a PATH on which it is the first."""
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "config"
        config.write_text(
            f"""{options}
IdentityFile "{self.folder}/user"
IdentitiesOnly yes
UserKnownHostsFile "{self.folder}/known_hosts"
GlobalKnownHostsFile none
"""
        )
        real = shutil.which("ssh")
        (folder / "ssh").write_text(f'#!/bin/sh\nexec {real} -F {shlex.quote(str(config))} "$@"\n')
        (folder / "ssh").chmod(0o755)
        return f"{folder}{os.pathsep}{os.environ['PATH']}"

    def start(self) -> None:
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # sshd of root insists on it
        log = open(self.folder / "log", "ab")  # noqa: SIM115 - the server's for as long as it runs
        command = [self._sshd, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()

        def listens() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, (self.folder / "log").read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        until(listens)

    def drop(self) -> None:
        """Kill what serves the connections, as a network that breaks would."""
        assert self.process is not None
        for pid in children(self.process.pid):
            for child in children(pid):
                if Path(f"/proc/{child}/comm").read_text().startswith("sshd"):
                    os.kill(
                        child, signal.SIGKILL
                    )  # with separated privileges one process has the connection, another the session
            os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        if self.process is not None:
            self.drop()
            self.process.kill()
            self.process.wait()


def keygen(*arguments: str) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", *arguments], check=True, stdout=subprocess.DEVNULL)


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def one_line(error: str) -> str:
    """The only line of an error."""
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, error
    assert "Traceback" not in error
    return lines[0]
