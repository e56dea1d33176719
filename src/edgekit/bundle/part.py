"""What the parts of `bundle.json` are: no unknown keys, files with their digests, and numbers of a task's own."""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from edgekit.errors import shortened
from edgekit.files import sha256


class ManifestPart(BaseModel):
    """A part of the manifest, without unknown keys. pydantic builds it on first use, to keep imports fast."""

    model_config = ConfigDict(extra="forbid", defer_build=True)


class BundleFile(ManifestPart):
    """A file of the bundle, with its size and digest."""

    path: str = Field(description="relative to the bundle, with forward slashes")
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or not path.isprintable() or set(path) & set("\\:"):
            raise ValueError(f"the path {path!r} is outside the bundle")
        return path

    @classmethod
    def of(cls, folder: Path, path: str) -> BundleFile:
        """Describe an existing file in `folder`."""
        return cls(path=path, bytes=(folder / path).stat().st_size, sha256=sha256(folder / path))


class Figures(ManifestPart):
    """A part with numbers of the task's own beside the fields that are named here."""

    model_config = ConfigDict(extra="allow", defer_build=True)

    @model_validator(mode="after")
    def _numbers(self) -> Figures:
        for name, value in (self.model_extra or {}).items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if value is not None and not number:
                raise ValueError(f"{shortened(name)} is not a finite number")
        return self

    @property
    def figures(self) -> dict[str, float]:
        """Those numbers by name."""
        return {name: value for name, value in (self.model_extra or {}).items() if value is not None}


def written_fields(content: dict[str, Any]) -> dict[str, Any]:
    """Fields of some tasks are written only where they say something: an older edgekit can then read the bundle."""
    return {
        key: value
        for key, value in content.items()
        if value is not None or key not in ("confidence", "geometry", "alarm")
    }
