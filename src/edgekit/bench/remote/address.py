"""Parse device addresses: `ssh://user@host:port`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from edgekit.errors import RemoteError

_SCHEME = "ssh://"
# User and host must not begin with a dash, which ssh would read as an option. A host may be an alias in the user's ssh configuration.
_ADDRESS = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][\w.+-]*)@)?(?P<host>[A-Za-z0-9_][\w.-]*|\[[0-9A-Fa-f:.]+(?:%\w+)?\])(?::(?P<port>[0-9]{1,5}))?/?",
    re.ASCII,
)
_FORM = "write it as ssh://user@host:port; user and port are optional"


@dataclass(frozen=True)
class Address:
    """A device's address; None means the value from the user's ssh configuration."""

    host: str
    user: str | None = None
    port: int | None = None

    @property
    def destination(self) -> list[str]:
        """The arguments of `ssh` that name the device."""
        return [
            *(["-p", str(self.port)] if self.port else []),
            *(["-l", self.user] if self.user else []),
            "--",
            self.host,
        ]

    @property
    def folder(self) -> str:
        """The name of the device's subfolder for results."""
        host = self.host.replace(":", "_").replace("%", "_")
        return f"{f'{self.user}@' if self.user else ''}{host}{f'-{self.port}' if self.port else ''}"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{_SCHEME}{f'{self.user}@' if self.user else ''}{host}{f':{self.port}' if self.port else ''}"


def parse(texts: Iterable[str]) -> list[Address]:
    """Return the devices in one or more `--device` values, each of which may list several with commas.

    Raises:
        RemoteError: a part is not an address, contains a password, or is repeated.
    """
    addresses: list[Address] = []
    for text in texts:
        first, *others = text.split(",")
        if not first.strip().startswith(_SCHEME):
            raise RemoteError(f"--device {text}: not an address", _FORM)
        for part in (first, *others):
            address = _parse(part.strip().removeprefix(_SCHEME), text)
            if address in addresses:
                raise RemoteError(f"--device {address}: given twice", "name each device once")
            addresses.append(address)
    return addresses


def _parse(part: str, text: str) -> Address:
    if re.match(r"[^@/]*:[^@/]*@", part):
        raise RemoteError(
            f"--device {_SCHEME}…@{part.rpartition('@')[2]}: contains a password, which edgekit does not accept",
            "log in with a key: ssh-copy-id user@host",
        )
    match = _ADDRESS.fullmatch(part)
    if not match:
        raise RemoteError(f"--device {text}: {part or 'an empty name'!s} is not an address", _FORM)
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 0 < port < 65536:
        raise RemoteError(f"--device {text}: {port} is not a port", "ports are 1 to 65535")
    return Address(match["host"].strip("[]"), match["user"], port)
