"""All messages that a device may send: a model for each, a parser for each kind, and their limits.

A device is not trusted. Everything that it sends is checked by these functions before use, and every fault is a `RemoteError`
that names the device.
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
MOST_MESSAGES = 16 << 20  # bytes of all lines and standard error together, in one call
MOST_FILE = 64 << 20  # bytes of one file of results
MOST_FETCHED = 512 << 20  # bytes of all files of one bench
MOST_OUTPUT = 16 << 20  # bytes of the bench's JSON output
MOST_FILES = 10_000
MOST_WARNINGS = 20_000  # characters of one result's warnings
SILENCE_SECONDS = 120.0  # without a byte; a device sends `alive` every ten seconds
LEAST_RATE = 50_000.0  # bytes per second, on average; a slower transfer takes too long

_HINT = "edgekit never sends this: check the device, or leave it out"
_RESULT_FILE = re.compile(r"results/[A-Za-z0-9][A-Za-z0-9._+-]{0,199}\.json")
_LOG_FILE = re.compile(r"results/[A-Za-z0-9][A-Za-z0-9._+-]{0,199}-loadgen-logs/mlperf_log_[a-z_]{1,40}\.(?:txt|json)")
OUTPUT_FILE = "stdout"  # the file with the bench's standard output


class ProtocolError(RemoteError):
    """A device sends something that edgekit never sends."""


def protocol_error(source: str, what: str) -> ProtocolError:
    """Return the error for a device that breaks the protocol."""
    return ProtocolError(what, _HINT, where=source)


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


class RemoteMessage(BaseModel):
    """A message from a device. Strict: no unknown keys, and no text instead of a number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ProbeReply(RemoteMessage):
    """Facts about the device; `missing` lists the packages that its Python lacks."""

    python: Name
    executable: Place
    architecture: Name
    root: Place
    missing: list[Name] = Field(max_length=100)
    gpu: bool


class OfferReply(RemoteMessage):
    """The objects that the device lacks, each with the number of bytes that it already has, and its free space in bytes."""

    missing: dict[Digest, Count]
    free: Count


class StoreReply(RemoteMessage):
    """The objects that arrived damaged."""

    damaged: list[Digest]


class EnvironmentReply(RemoteMessage):
    """The environment's Python, its installed extras, and why others could not be installed."""

    python: Place
    extras: list[Name] = Field(max_length=100)
    failed: dict[Name, Text] = Field(max_length=100)


class StartReply(RemoteMessage):
    """Whether the bench was started or found."""

    state: Literal["started", "running", "ended"]
    folder: Place


class FollowReply(RemoteMessage):
    """The bench's exit code (None: it was killed), its files, and its error message if there is one."""

    exit: Annotated[int, Field(ge=-255, le=255)] | None
    files: list[str] = Field(max_length=MOST_FILES)
    error: Annotated[str, Field(max_length=4096), AfterValidator(_printable)] = ""


class StopReply(RemoteMessage):
    """Whether there was a bench to stop."""

    stopped: bool


class FetchReply(RemoteMessage):
    """The end of all files."""


class FinishReply(RemoteMessage):
    """The bench's folder, if it was kept."""

    folder: Place


class AliveEvent(RemoteMessage):
    """The device is still working."""

    event: Literal["alive"]


class ProgressEvent(RemoteMessage):
    """A line about the device's progress."""

    event: Literal["say"]
    text: Text


class LineEvent(RemoteMessage):
    """A line that the bench printed; it ends at byte `seen`."""

    event: Literal["line"]
    text: Text
    seen: Count


class FileEvent(RemoteMessage):
    """A file of `bytes` bytes follows."""

    event: Literal["data"]
    path: str = Field(max_length=1000)
    bytes: Count
    sha256: Digest


class FailureReply(RemoteMessage):
    """The request failed; `full`: because the disk is full."""

    error: Text
    full: bool


@dataclass(frozen=True)
class Verb:
    """The messages that a device may send for one request.

    Attributes:
        reply: the model of the reply.
        event: the model of events before the reply, in addition to `AliveEvent`; None for none.
        seconds: time limit, without transfers.
    """

    reply: type[RemoteMessage]
    event: type[RemoteMessage] | None
    seconds: float


VERBS = {
    "probe": Verb(ProbeReply, None, 300.0),
    "offer": Verb(OfferReply, None, 1800.0),  # it computes the digests of existing objects
    "store": Verb(StoreReply, None, 1800.0),
    "environment": Verb(EnvironmentReply, ProgressEvent, 2 * 3600.0),
    "start": Verb(StartReply, None, 1800.0),  # it unpacks, and copies if its file system has no links
    "follow": Verb(FollowReply, LineEvent, 24 * 3600.0),
    "stop": Verb(StopReply, None, 120.0),
    "fetch": Verb(FetchReply, FileEvent, 600.0),
    "finish": Verb(FinishReply, None, 600.0),
}
M = TypeVar("M", bound=BaseModel)


def parse_message(op: str, line: bytes, source: str) -> RemoteMessage:
    """Parse a line (without its mark) that a device sends for a request: an event, a reply or a failure.

    Args:
        op: a request of `on_device`, a key of `VERBS`.
        line: JSON.
        source: the device's name for messages.

    Raises:
        RemoteError: it is not JSON, or not a message for this request.
    """
    verb = VERBS[op]
    content = _json(line, source)
    if "event" in content:
        known = {_tag(kind): kind for kind in (AliveEvent, verb.event) if kind is not None}
        event = content["event"]
        if not isinstance(event, str) or event not in known:
            raise protocol_error(source, f"sends the event {quoted(event)}, which {op} does not have")
        return _model(known[event], content, source)
    if "error" in content:
        return _model(FailureReply, content, source)
    if set(content) != {"reply"}:
        raise protocol_error(source, f"answers {op} with neither a reply nor an error")
    return _model(verb.reply, content["reply"], source)


def _tag(kind: type[RemoteMessage]) -> str:
    """Return the name of an event: the only value of its model's field `event`."""
    tag: str = kind.model_fields["event"].annotation.__args__[0]  # type: ignore[union-attr]
    return tag


def parse_python(lines: Iterable[bytes], source: str) -> tuple[list[str], str]:
    """Parse a shell's output in the search for Python: the texts of the marked lines, and the last line without a mark.

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
            raise protocol_error(source, "names a Python that cannot be run")
        marked.append(text)
    return marked, shortened(other, 500)


class BenchRow(BaseModel):
    """A result in the bench's output; its figures are read from its file."""

    model_config = ConfigDict(strict=True)

    file: str = Field(max_length=4096)


class NotMeasured(BaseModel):
    """Why a variant was not measured."""

    model_config = ConfigDict(strict=True)

    variant: str = Field(max_length=1000)
    reason: Text


class BenchOutput(BaseModel):
    """The output of `edgekit bench --json`, without the figures, which are in the result files."""

    model_config = ConfigDict(strict=True)

    results: list[BenchRow] = Field(default_factory=list, max_length=MOST_FILES)
    failed: list[NotMeasured] = Field(default_factory=list, max_length=MOST_FILES)
    left_out: list[NotMeasured] = Field(default_factory=list, max_length=MOST_FILES)


def parse_output(content: bytes, source: str) -> BenchOutput:
    """Parse the standard output of a bench on a device; an empty output means that nothing was measured.

    Raises:
        RemoteError: it is not such an output, or too large.
    """
    if len(content) > MOST_OUTPUT:
        raise protocol_error(source, f"its bench prints more than {MOST_OUTPUT:,} bytes")
    if not content.strip():
        return BenchOutput()
    return _model(BenchOutput, _json(content, source), source)


def file_to_fetch(name: str, source: str) -> bool:
    """Whether a file of a bench is one that edgekit writes: a result, a LoadGen log, or the standard output.

    Raises:
        RemoteError: the name leaves the bench's folder, or is not printable.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not name.isprintable() or len(name) > 1000:
        raise protocol_error(source, f"names a file outside its folder: {quoted(name)}")
    return name == OUTPUT_FILE or bool(_RESULT_FILE.fullmatch(name) or _LOG_FILE.fullmatch(name))


def is_result(name: str) -> bool:
    """Whether a fetched file is a result."""
    return bool(_RESULT_FILE.fullmatch(name))


def _json(content: bytes, source: str) -> dict[str, Any]:
    try:
        value: dict[str, Any] = parse_json(content, source)
    except Unreadable as error:
        raise protocol_error(source, f"sends an invalid message: {error.reason}") from error
    return value


def _model(model: type[M], value: Any, source: str) -> M:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise protocol_error(source, f"sends an invalid message: {first_problem(error)}") from error
