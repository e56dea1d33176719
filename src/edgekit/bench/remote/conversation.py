"""Exchange data with a process on a device without deadlock, within limits of time and size."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator

from edgekit.bench.remote.replies import MOST_LINE, MOST_MESSAGES, SILENCE_SECONDS, protocol_error
from edgekit.errors import RemoteError, shortened

_POLL_SECONDS = 0.2
_BLOCK = 1 << 16
_LINE_COST = 64  # bytes that each line counts in addition to its own, because millions of empty lines take long too
_STDERR_TAIL = 1 << 13  # bytes of standard error that are kept
_LAST_SECONDS = 2.0


class TooSlow(RemoteError):
    """The device is still connected, but makes no progress."""


class Conversation:
    """The input and output of a process on a device.

    Args:
        child: the local process; its three streams are pipes.
        source: the device's name for messages.
        seconds: time limit from now on.
        idle: called at least every fifth of a second; an exception that it raises ends the conversation.
        silence: limit of seconds without a byte in either direction.
    """

    def __init__(
        self,
        child: subprocess.Popen[bytes],
        source: str,
        seconds: float,
        idle: Callable[[], None] = lambda: None,
        silence: float | None = None,
    ) -> None:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        self._in, self._out, self._err = child.stdin.fileno(), child.stdout.fileno(), child.stderr.fileno()
        os.set_blocking(self._in, False)
        self._source, self._idle = source, idle
        self._seconds, self._silence = seconds, SILENCE_SECONDS if silence is None else silence
        self._began = self._heard = time.monotonic()
        self._open = {self._out, self._err}
        self._buffer = bytearray()
        self._searched = 0
        self._received = 0
        self._stderr_tail = b""

    def send(self, blocks: Iterable[bytes]) -> None:
        """Send blocks of bytes. If the process ends early, sending stops, and its reply has the reason.

        Raises:
            TooSlow: the device accepts no data, or takes too long.
        """
        try:
            for block in blocks:
                view = memoryview(block)
                while view:
                    view = view[self._exchange(view) :]
        except BrokenPipeError:
            pass

    def line(self) -> bytes | None:
        """Return the next line without its line end; None at the end of the output.

        Raises:
            TooSlow: no data arrives, or it takes too long.
            RemoteError: the line, or the whole output, is too long.
        """
        while True:
            at = self._buffer.find(b"\n", self._searched)
            if at >= 0:
                line = bytes(self._buffer[:at])
                del self._buffer[: at + 1]
                self._searched = 0
                self._count(at + 1 + _LINE_COST)
                return line
            if len(self._buffer) >= MOST_LINE:
                raise protocol_error(self._source, f"sends a line of more than {MOST_LINE:,} bytes")
            if self._out not in self._open:
                return None
            self._searched = len(self._buffer)
            self._exchange()

    def lines(self) -> Iterator[bytes]:
        """Yield all lines until the end; raises the same errors as `line`."""
        while (line := self.line()) is not None:
            yield line

    def copy(self, size: int, write: Callable[[bytes], object]) -> bool:
        """Pass the next `size` bytes to `write`; return False if the process ends before.

        Raises:
            TooSlow: no data arrives, or it takes too long.
        """
        self._searched = 0
        while size:
            if part := bytes(self._buffer[: min(size, _BLOCK)]):
                del self._buffer[: len(part)]
                size -= len(part)
                write(part)
            elif self._out not in self._open:
                return False
            else:
                self._exchange()
        return True

    def extend(self, seconds: float) -> None:
        """Extend the time limit, for bytes that the device has announced."""
        self._seconds += seconds

    def last_error_line(self) -> str:
        """Return the last line of standard error; wait for a moment if the process has not closed it."""
        self._seconds = self._silence = time.monotonic() - self._began + _LAST_SECONDS
        self._open.discard(self._out)
        try:
            while self._open:
                self._exchange()
        except RemoteError:
            pass  # what arrived until now is enough
        lines = [line.strip() for line in self._stderr_tail.decode(errors="replace").splitlines() if line.strip()]
        return shortened(lines[-1], 500) if lines else ""

    def _exchange(self, block: memoryview | None = None) -> int:
        """Wait a moment for the other end; read its output, and return how much of the block it accepted."""
        self._idle()
        self._check_time()
        # While the buffer is full, further output waits at the other end.
        reading = [f for f in self._open if f == self._err or len(self._buffer) < MOST_LINE]
        readable, writable, _ = select.select(reading, [self._in] if block else [], [], _POLL_SECONDS)
        if readable or writable:
            self._heard = time.monotonic()
        for stream in readable:
            content = os.read(stream, _BLOCK)
            if not content:
                self._open.discard(stream)
            elif stream == self._out:
                self._buffer += content
            else:
                self._stderr_tail = (self._stderr_tail + content)[-_STDERR_TAIL:]
                self._count(len(content))
        return os.write(self._in, block[:_BLOCK]) if block and writable else 0

    def _count(self, size: int) -> None:
        self._received += size
        if self._received > MOST_MESSAGES:
            raise protocol_error(self._source, f"sends more than {MOST_MESSAGES:,} bytes of messages")

    def _check_time(self) -> None:
        now = time.monotonic()
        if now - self._heard > self._silence:
            raise TooSlow(f"sent nothing for {self._silence:.0f} s", "check the device", where=self._source)
        if now - self._began > self._seconds:
            raise TooSlow(f"did not finish within {self._seconds:.0f} s", "check the device", where=self._source)
