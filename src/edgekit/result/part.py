"""What every part of a result is: no unknown keys; and the types that several parts have."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field

T = TypeVar("T")
# Only the first of many wrong elements is reported: an error for each would take more memory than the file.
Many = Annotated[list[T], FailFast()]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class ResultPart(BaseModel):
    """A part of a result, without unknown keys."""

    model_config = ConfigDict(extra="forbid")
