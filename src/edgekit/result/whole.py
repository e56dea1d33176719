"""The file of a result: the measurement, and everything needed to repeat it."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from edgekit.errors import EdgekitError
from edgekit.files import write_text
from edgekit.foreign import Unreadable, read_bytes, understood
from edgekit.machine import Machine, this_machine
from edgekit.result.evaluation import Ablation, Evaluation, Transfer
from edgekit.result.latency import Latency, Profile
from edgekit.result.part import ResultPart
from edgekit.result.search import Search
from edgekit.shares import percent
from edgekit.text import counted, visible
from edgekit.validation import first_problem

MOST_RESULT = 1 << 30  # bytes of a file, which has every sample
# Texts, lists and groups of one file, counted by their delimiters. Samples are plain numbers; a profile has about fifteen per layer.
MOST_PIECES = 1_000_000
_MOST_TEXT = 100_000  # characters of one text
RESULT_SCHEMA = 1

Measurement = Latency | Profile | Evaluation | Ablation | Transfer | Search


class Result(ResultPart):
    """A measurement with its time, command, seed and machine."""

    result_schema: Literal[1] = Field(1, alias="schema")
    created: str
    command: list[str]
    seed: int | None = None
    machine: Machine
    measurement: Annotated[Measurement, Field(discriminator="kind")]

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    def __repr__(self) -> str:
        return visible(f"<Result {self.measurement.kind} {_in_short(self.measurement)}>")

    __str__ = __repr__  # all the samples of a measurement would fill a notebook

    @classmethod
    def of(cls, measurement: Measurement, seed: int | None = None) -> Result:
        """Return a result for a measurement that this command has just made on this machine."""
        command = [Path(sys.argv[0]).name, *sys.argv[1:]]
        return cls(created=now(), command=command, seed=seed, machine=this_machine(), measurement=measurement)

    @classmethod
    def read(cls, path: Path) -> Result:
        """Read a result file.

        Raises:
            EdgekitError: the file is missing or damaged, or has a newer schema.
        """
        try:
            content = read_bytes(path, MOST_RESULT)
        except Unreadable as error:
            raise EdgekitError(f"{path}: {'no such result' if error.missing else error.reason}") from error
        return cls.parse(content, path)

    @classmethod
    def parse(cls, content: bytes, path: Path | str) -> Result:
        """Parse the bytes of a result file.

        Args:
            content: its bytes; parsing takes at most about 25 times as much memory, and half a gigabyte.
            path: its name, for messages.

        Raises:
            EdgekitError: it is damaged, has an impossible number, or has a newer schema.
        """
        if sum(content.count(sign) for sign in (b'"', b"[", b"{")) > MOST_PIECES:
            raise EdgekitError(f"{path}: not a result file: it has more than {MOST_PIECES:,} texts and lists")
        try:
            with understood(path, f"a result file of schema {RESULT_SCHEMA}"):
                try:
                    result = cls.model_validate_json(content)
                except ValidationError as error:
                    raise ValueError(first_problem(error)) from error
                if not _plausible(result.model_dump(exclude={"measurement": {"samples_ns"}})):
                    raise ValueError("it has a number or a text that is too large, or a number that is not finite")
        except Unreadable as error:
            raise EdgekitError(f"{path}: {error.reason}") from error
        return result

    def write(self, path: Path) -> None:
        """Write the result atomically."""
        write_text(path, self.model_dump_json(indent=1, by_alias=True) + "\n")


def _plausible(value: Any) -> bool:
    """Whether every number in groups and lists is finite and not too large, and every text not too long."""
    if isinstance(value, dict):
        return all(_plausible(key) and _plausible(inner) for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_plausible, value))
    if isinstance(value, str):
        return len(value) <= _MOST_TEXT
    return not isinstance(value, (int, float)) or abs(value) < 2**63  # also false for NaN


def now() -> str:
    """Return the time in UTC, to the second, as ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _in_short(measurement: Measurement) -> str:
    """What a measurement found, for a person who looks at it in Python."""
    if isinstance(measurement, Latency):
        median = measurement.percentiles_ms.get("p50")
        speed = f"p50 {median:.3g} ms" if median is not None else f"mean {measurement.mean_ms:.3g} ms"
        return f"of {measurement.variant}, batch {measurement.batch}: {speed}, {measurement.throughput:.3g} images/s"
    if isinstance(measurement, Profile):
        return f"of {measurement.variant}, batch {measurement.batch}: {len(measurement.layers)} layers"
    if isinstance(measurement, Evaluation):
        scores = [s for s in measurement.scores if s.shots is None]
        return f"of {measurement.run}: " + ", ".join(f"{s.model} {s.metric} {percent(s.value)}" for s in scores)
    if isinstance(measurement, Ablation):
        return f"of {measurement.recipe}: {len(measurement.cells)} of {measurement.planned} cells"
    if isinstance(measurement, Search):
        found = f"the winner is {measurement.winner}" if measurement.winner else "no winner"
        return f"of {measurement.recipe}: {counted(len(measurement.candidates), 'candidate')}, {found}"
    return f"of {measurement.run}: {', '.join(one.name for one in measurement.sets)}"
