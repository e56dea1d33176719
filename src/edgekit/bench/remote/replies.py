"""Everything that a device may say: one model a reply, one function a parser, and the bounds of it all.

A device is somebody else's machine. Nothing that it sends is used before one of these functions has read it, and whatever is wrong
with it is a `RemoteError` that names the device.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from edgekit.errors import RemoteError, quoted, shortened
from edgekit.foreign import Unreadable, parse_json
from edgekit.validation import first_problem

MARK = b"@edgekit "  # begins every line that is meant for this side
MOST_LINE = 4 << 20  # bytes of one line
MOST_SAID = 16 << 20  # bytes of all lines and of standard error together, in one call
MOST_FILE = 64 << 20  # bytes of one file of results
MOST_FETCHED = 512 << 20  # bytes of all files of one bench
MOST_PRINTED = 16 << 20  # bytes of what the bench prints as JSON
MOST_FILES = 10_000
MOST_WARNINGS = 20_000  # characters of one result's warnings
SILENCE_SECONDS = 120.0  # without a byte; a device says every ten seconds that it is still there
LEAST_RATE = 50_000.0  # bytes a second, on average: whatever is slower takes too long

_HINT = "this is not what edgekit says there: check the device, or leave it out"
_RESULT_FILE = re.compile(r"results/[A-Za-z0-9][A-Za-z0-9._+-]{0,199}\.json")
_LOG_FILE = re.compile(r"results/[A-Za-z0-9][A-Za-z0-9._+-]{0,199}-loadgen-logs/mlperf_log_[a-z_]{1,40}\.(?:txt|json)")
PRINTED = "stdout"  # the file that holds what the bench printed


class Misbehaves(RemoteError):
    """A device says or sends what edgekit never would there."""


def misbehaves(source: str, what: str) -> Misbehaves:
    """The error for a device that does something wrong."""
    return Misbehaves(what, _HINT, where=source)


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be printable")
    return text


def _absolute(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("must be an absolute path")
    return text


Name = Annotated[str, Field(max_length=1000), AfterValidator(_printable)]
Place = Annotated[str, Field(max_length=4096), AfterValidator(_printable), AfterValidator(_absolute)]
Text = Annotated[str, Field(max_length=20_000)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ReplyPart(BaseModel):
    """Strict: no unknown keys, and no text where a number is due."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ProbeReply(ReplyPart):
    """What device this is; `missing` are the packages that its Python lacks."""

    python: Name
    executable: Place
    architecture: Name
    root: Place
    missing: list[Name] = Field(max_length=100)
    gpu: bool


class Offer(ReplyPart):
    """Which objects the device lacks, each with the bytes that it has of it, and its free space in bytes."""

    missing: dict[Digest, Count]
    free: Count


class Stored(ReplyPart):
    """Which objects arrived damaged."""

    damaged: list[Digest]


class Environment(ReplyPart):
    """The environment's Python, the extras that it has, and why others could not be installed."""

    python: Place
    extras: list[Name] = Field(max_length=100)
    failed: dict[Name, Text] = Field(max_length=100)


class StartReply(ReplyPart):
    """Whether the bench was started or found."""

    state: Literal["started", "running", "ended"]
    folder: Place


class Ended(ReplyPart):
    """How the bench ended (None: it was killed), which files it left, and why it failed, where it could say so."""

    exit: Annotated[int, Field(ge=-255, le=255)] | None
    files: list[str] = Field(max_length=MOST_FILES)
    error: Annotated[str, Field(max_length=4096), AfterValidator(_printable)] = ""


class StopReply(ReplyPart):
    """Whether there was a bench to stop."""

    stopped: bool


class Fetched(ReplyPart):
    """All files were sent."""


class Finished(ReplyPart):
    """Where the bench's folder is, if it was kept."""

    folder: Place


class Alive(ReplyPart):
    """The device is still there."""

    event: Literal["alive"]


class Said(ReplyPart):
    """How far the device is."""

    event: Literal["say"]
    text: Text


class LineReply(ReplyPart):
    """A line that the bench printed; it ends at byte `seen`."""

    event: Literal["line"]
    text: Text
    seen: Count


class DataReply(ReplyPart):
    """A file follows, of so many bytes."""

    event: Literal["data"]
    path: str = Field(max_length=1000)
    bytes: Count
    sha256: Digest


class FailureReply(ReplyPart):
    """The device could not do it; `full`: because its disk is."""

    error: Text
    full: bool


@dataclass(frozen=True)
class Verb:
    """What a device may say to one request.

    Attributes:
        reply: the model of the reply.
        event: of what may come before it, beside `Alive`; None for nothing.
        seconds: that it may take, without what is sent or received.
    """

    reply: type[ReplyPart]
    event: type[ReplyPart] | None
    seconds: float


VERBS = {
    "probe": Verb(ProbeReply, None, 300.0),
    "offer": Verb(Offer, None, 1800.0),  # it takes the digest of what is there
    "store": Verb(Stored, None, 1800.0),
    "environment": Verb(Environment, Said, 2 * 3600.0),
    "start": Verb(StartReply, None, 1800.0),  # it unpacks, and copies where its file system has no links
    "follow": Verb(Ended, LineReply, 24 * 3600.0),
    "stop": Verb(StopReply, None, 120.0),
    "fetch": Verb(Fetched, DataReply, 600.0),
    "finish": Verb(Finished, None, 600.0),
}
Message = ReplyPart  # Alive, the verb's event, its reply, or a Failure
M = TypeVar("M", bound=BaseModel)


def parse_message(op: str, line: bytes, source: str) -> Message:
    """The event, reply or failure in a line, without its mark, that a device answers to a request.

    Args:
        op: a verb of `on_device`, a key of `VERBS`.
        line: JSON.
        source: of the device, for the message.

    Raises:
        RemoteError: it is not JSON, or not what the verb says.
    """
    verb = VERBS[op]
    content = _json(line, source)
    if "event" in content:
        known = {_tag(kind): kind for kind in (Alive, verb.event) if kind is not None}
        event = content["event"]
        if not isinstance(event, str) or event not in known:
            raise misbehaves(source, f"says {quoted(event)} where {op} has no such event")
        return _model(known[event], content, source)
    if "error" in content:
        return _model(FailureReply, content, source)
    if set(content) != {"reply"}:
        raise misbehaves(source, f"answers {op} with neither a reply nor an error")
    return _model(verb.reply, content["reply"], source)


def _tag(kind: type[ReplyPart]) -> str:
    """The name of an event's model: the only value of its field `event`."""
    tag: str = kind.model_fields["event"].annotation.__args__[0]  # type: ignore[union-attr]
    return tag


def parse_python(lines: Iterable[bytes], source: str) -> tuple[list[str], str]:
    """What a shell says when it looks for Python: the texts of the marked lines, and the last line without a mark.

    Raises:
        RemoteError: a marked line is not printable.
    """
    marked: list[str] = []
    other = ""
    for line in lines:
        text = line.decode(errors="replace").strip()
        if not line.startswith(MARK):
            other = text or other
            continue
        text = line[len(MARK) :].decode(errors="replace").strip()
        if not text.isprintable() or len(text) > 4096 or len(marked) == 100:
            raise misbehaves(source, "names no Python that could be run")
        marked.append(text)
    return marked, shortened(other, 500)


class BenchRow(BaseModel):
    """A result in what the bench printed; its figures are taken from the file itself."""

    model_config = ConfigDict(strict=True)

    file: str = Field(max_length=4096)


class Reason(BaseModel):
    """Why a variant was not measured."""

    model_config = ConfigDict(strict=True)

    variant: str = Field(max_length=1000)
    reason: Text


class Printed(BaseModel):
    """What `edgekit bench --json` prints, of which the rest is in the result files."""

    model_config = ConfigDict(strict=True)

    results: list[BenchRow] = Field(default_factory=list, max_length=MOST_FILES)
    failed: list[Reason] = Field(default_factory=list, max_length=MOST_FILES)
    left_out: list[Reason] = Field(default_factory=list, max_length=MOST_FILES)


def parse_printed(content: bytes, source: str) -> Printed:
    """What a bench on a device printed on standard output; nothing at all is a bench that measured nothing.

    Raises:
        RemoteError: it is something else, or too large.
    """
    if len(content) > MOST_PRINTED:
        raise misbehaves(source, f"its bench prints more than {MOST_PRINTED:,} bytes")
    if not content.strip():
        return Printed()
    return _model(Printed, _json(content, source), source)


def file_to_fetch(name: str, source: str) -> bool:
    """Whether a file of a bench is one that edgekit writes: a result, LoadGen's log, or what it printed.

    Raises:
        RemoteError: the name leaves the bench's folder, or cannot be printed.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not name.isprintable() or len(name) > 1000:
        raise misbehaves(source, f"names a file that leaves its folder, {quoted(name)}")
    return name == PRINTED or bool(_RESULT_FILE.fullmatch(name) or _LOG_FILE.fullmatch(name))


def is_result(name: str) -> bool:
    """Whether a file that is fetched holds a result."""
    return bool(_RESULT_FILE.fullmatch(name))


def _json(content: bytes, source: str) -> dict[str, Any]:
    try:
        value: dict[str, Any] = parse_json(content, source)
    except Unreadable as error:
        raise misbehaves(source, f"what it says cannot be understood: {error.reason}") from error
    return value


def _model(model: type[M], value: Any, source: str) -> M:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise misbehaves(source, f"what it says cannot be understood: {first_problem(error)}") from error
