"""The wheel for a device: the edgekit that runs here, packed from its own files, from a checkout or an installation."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import edgekit
from edgekit.errors import RemoteError
from edgekit.files import sha256, write_bytes
from edgekit.foreign import Unreadable, understood

DISTRIBUTION = "edgekit-vision"
# Files about this installation, which do not apply to the next one.
_LOCAL = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json"}
_EPOCH = (
    1980,
    1,
    1,
    0,
    0,
    0,
)  # fixed, so that the same files give the same bytes and an unchanged edgekit is not copied again


@dataclass(frozen=True)
class Wheel:
    """A wheel of edgekit.

    Attributes:
        path: the file.
        sha256: of its bytes.
        requirements: digest of its dependencies: wheels with equal ones share an environment.
    """

    path: Path
    sha256: str
    requirements: str


def pack(folder: Path) -> Wheel:
    """Write the wheel of the running edgekit into `folder`: its package files and its metadata.

    Nothing is built or downloaded: edgekit is pure Python, so a wheel (PEP 427) is its files and a RECORD of them.

    Raises:
        RemoteError: edgekit runs from files that were never installed, so its dependencies are not known.
    """
    package = Path(edgekit.__file__).parent
    files = {
        f"edgekit/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in sorted(package.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }
    info = f"{DISTRIBUTION.replace('-', '_')}-{edgekit.__version__}"
    try:
        installed = metadata.distribution(DISTRIBUTION).files or []
    except metadata.PackageNotFoundError:
        raise RemoteError(
            f"{package}: this edgekit was not installed, so its wheel cannot be packed",
            "make one with `make wheel` and give it with --wheel",
        ) from None
    for file in sorted(installed):
        inside = file.as_posix().partition(".dist-info/")[2]
        if inside and inside not in _LOCAL:
            files[f"{info}.dist-info/{inside}"] = Path(str(file.locate())).read_bytes()
    record = "".join(f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in files.items())
    files[f"{info}.dist-info/RECORD"] = (record + f"{info}.dist-info/RECORD,,\n").encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    path = folder / f"{info}-py3-none-any.whl"
    write_bytes(path, stream.getvalue())
    return check(path)


def check(path: Path) -> Wheel:
    """Check that a file is a wheel of edgekit, and return it.

    Raises:
        RemoteError: it cannot be read, or is something else.
    """
    try:
        with understood(path, "a wheel"), zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            about = next(name for name in names if name.endswith(".dist-info/METADATA") and name.count("/") == 1)
            text = archive.read(about).decode()
    except Unreadable as error:
        raise RemoteError(f"{path}: not a wheel: {error.reason}", "make one with `make wheel`") from error
    lines = text.split("\n\n", 1)[0].splitlines()
    if f"Name: {DISTRIBUTION}" not in lines or "edgekit/cli/bench.py" not in names or path.suffix != ".whl":
        raise RemoteError(f"{path}: not a wheel of this edgekit", "make one with `make wheel`")
    wanted = sorted(line for line in lines if line.startswith(("Requires-Dist:", "Requires-Python:")))
    return Wheel(path, sha256(path), hashlib.sha256(json.dumps(wanted).encode()).hexdigest())


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
