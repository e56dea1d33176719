"""All output for people or programs goes through this module.

Names of files, classes, bundles and devices are untrusted. A control character in one could move the cursor, hide text or forge a
line; Rich would read a square bracket as markup, and a character that the terminal's encoding lacks would end the command. So use
`echo` for lines, `echo_json` for JSON, `echo_file` for the content of files, `new_console` for tables; no other code in the package
writes to the streams.
"""

from __future__ import annotations

import codecs
import errno
import os
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

from edgekit.text import visible

if TYPE_CHECKING:
    from rich.console import Console

# Replacements of characters in our own texts, for terminals that only support ASCII or Latin-1.
_PLAIN = {
    "×": "x", "–": "-", "—": "-", "−": "-", "…": "...", "’": "'", "‘": "'", "“": '"', "”": '"', "→": "->", "←": "<-", "↓": "v", "↑": "^",
    "≥": ">=", "≤": "<=", "±": "+-", "·": "*", "•": "*", "°": "deg", "µ": "u", "Δ": "d", "█": "#", "√": "sqrt", "²": "2",
    "✅": "ok", "❌": "failed", "⚠️": "!", "⚠": "!", "\ufe0f": "",
}  # fmt: skip
_NOT_ASCII = re.compile("[^\x00-\x7f]")


_echoed = 0


def echoed() -> int:
    """How often `echo` has printed something."""
    return _echoed


def echo(*lines: str, err: bool = False) -> None:
    """Print lines; each stays one line whatever its content.

    Args:
        lines: no argument prints an empty line.
        err: print to standard error.

    Raises:
        OSError: the reader has closed the stream, or its disk is full.
    """
    global _echoed  # noqa: PLW0603 - as the streams are of the whole process
    _echoed += 1
    stream = sys.stderr if err else sys.stdout
    stream.write("".join(f"{visible(line)}\n" for line in lines or ("",)))
    stream.flush()


def echo_json(text: str) -> None:
    """Print a JSON text of one or several lines, valid in any encoding.

    In a JSON string an escape means the character itself, and outside strings no character needs an escape.

    Raises:
        OSError: as `echo`.
    """
    text = visible(text, keep="\n")
    if "utf" not in (sys.stdout.encoding or "utf").lower():
        text = _NOT_ASCII.sub(lambda found: _escape(found[0]), text)
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def echo_file(text: str) -> None:
    """Print the content of a file for redirection: unchanged and in UTF-8, whatever the terminal's encoding.

    Raises:
        OSError: as `echo`.
    """
    binary = getattr(sys.stdout, "buffer", None)
    sys.stdout.flush()
    if binary is None:
        sys.stdout.write(text)
    else:
        binary.write(text.encode(errors="surrogateescape"))
    sys.stdout.flush()


def new_console(*, stderr: bool = False, width: int | None = None, highlight: bool = True) -> Console:
    """Create a Rich console that shows text unchanged: no markup, no emoji codes, no control characters except Rich's own.

    Args:
        stderr: write to standard error.
        width: None for the terminal's width.
        highlight: color numbers and the like.
    """
    from rich.console import Console as RichConsole
    from rich.segment import Segment
    from rich.text import Text

    class Plain(RichConsole):
        def on_broken_pipe(self) -> None:
            """Let the command end as with any other output; Rich would exit with 1, as if a check had failed."""
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

        def render_str(self, text: str, **options: Any) -> Any:
            return super().render_str(visible(text), **options)

        def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
            if isinstance(renderable, Text) and visible(renderable.plain) != renderable.plain:
                renderable = renderable.copy()
                renderable.plain = visible(renderable.plain)
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(visible(segment.text, keep="\n"), segment.style)

    return Plain(stderr=stderr, width=width, highlight=highlight, markup=False, emoji=False)


def prepare_streams() -> None:
    """Make standard output and error replace characters that their encoding lacks, and open them if the shell closed them."""
    codecs.register_error("edgekit", _replaced)
    if sys.stdout is None:  # closed by the shell
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - it is standard output from now on
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="edgekit")


def abandon(stream: TextIO) -> None:
    """Redirect a closed stream to nowhere, because Python would complain about unwritten output at its exit."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except (OSError, ValueError):  # no file, as in tests
        pass


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    plain = "".join(_PLAIN.get(character, "?") for character in text)
    return plain, error.end


def _escape(character: str) -> str:
    """Escape a character for JSON; above U+FFFF, as the two halves of UTF-16."""
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{int.from_bytes(units[i : i + 2], 'big'):04x}" for i in range(0, len(units), 2))
