"""Both ends of the pipes to a process on a device, none of which may block the others, last for ever, or bring too much."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator

from edgekit.bench.remote.replies import MOST_LINE, MOST_SAID, SILENCE_SECONDS, misbehaves
from edgekit.errors import RemoteError, shortened

_POLL_SECONDS = 0.2
_BLOCK = 1 << 16
_LINE_COST = 64  # bytes that a line counts for beside its own: millions of empty ones take long, too
_LAST_WORDS = 1 << 13  # bytes of standard error that are kept
_LAST_SECONDS = 2.0


class TooSlow(RemoteError):
    """The device is still connected, but does not get on."""


class Conversation:
    """What is said to a process on a device, and what it says.

    Args:
        child: the local process, all three streams of it pipes.
        source: of the device, for messages.
        seconds: that it may take from now on.
        idle: called at least every fifth of a second; what it raises ends the conversation.
        silence: seconds without a byte in either direction.
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
        self._said = 0
        self._words = b""

    def send(self, blocks: Iterable[bytes]) -> None:
        """Send blocks of bytes; a process that ended early takes no more, and why is in its reply.

        Raises:
            TooSlow: the device takes nothing, or takes too long.
        """
        try:
            for block in blocks:
                view = memoryview(block)
                while view:
                    view = view[self._turn(view) :]
        except BrokenPipeError:
            pass

    def line(self) -> bytes | None:
        """The next line without its end; None where the process says nothing more.

        Raises:
            TooSlow: nothing comes, or all of it takes too long.
            RemoteError: the line, or everything that was said, is too long.
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
                raise misbehaves(self._source, f"sends a line of more than {MOST_LINE:,} bytes")
            if self._out not in self._open:
                return None
            self._searched = len(self._buffer)
            self._turn()

    def lines(self) -> Iterator[bytes]:
        """All lines until the end; raises what `line` does."""
        while (line := self.line()) is not None:
            yield line

    def copy(self, size: int, write: Callable[[bytes], object]) -> bool:
        """Hand the next `size` bytes on; False where the process ends before.

        Raises:
            TooSlow: nothing comes, or all of it takes too long.
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
                self._turn()
        return True

    def extend(self, seconds: float) -> None:
        """Give it more time, for bytes that it has announced."""
        self._seconds += seconds

    def last_words(self) -> str:
        """The last line of standard error, waited for a moment where the process has not closed it."""
        self._seconds = self._silence = time.monotonic() - self._began + _LAST_SECONDS
        self._open.discard(self._out)
        try:
            while self._open:
                self._turn()
        except RemoteError:
            pass  # what came until now will do
        lines = [line.strip() for line in self._words.decode(errors="replace").splitlines() if line.strip()]
        return shortened(lines[-1], 500) if lines else ""

    def _turn(self, block: memoryview | None = None) -> int:
        """Wait a moment for the other end; read what it says, and give how much of the block it took."""
        self._idle()
        self._check_time()
        # What is not taken from the buffer yet waits at the other end.
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
                self._words = (self._words + content)[-_LAST_WORDS:]
                self._count(len(content))
        return os.write(self._in, block[:_BLOCK]) if block and writable else 0

    def _count(self, size: int) -> None:
        self._said += size
        if self._said > MOST_SAID:
            raise misbehaves(self._source, f"says more than {MOST_SAID:,} bytes")

    def _check_time(self) -> None:
        now = time.monotonic()
        if now - self._heard > self._silence:
            raise TooSlow(f"no word from it for {self._silence:.0f} s", "check the device", where=self._source)
        if now - self._began > self._seconds:
            raise TooSlow(f"has not done it within {self._seconds:.0f} s", "check the device", where=self._source)
