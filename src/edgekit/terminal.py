"""Everything that is printed for people or programs goes through here.

Names of files, classes, bundles and devices come from elsewhere. A control character in one would move the cursor, hide what follows
or forge a line; a square bracket would be taken for Rich's markup, and a character that the terminal's encoding lacks would end the
command. So: `echo` for lines, `echo_json` for JSON, `echo_file` for the content of files, `new_console` for tables; nothing else in
the package writes to the streams.
"""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

from edgekit.text import visible

if TYPE_CHECKING:
    from rich.console import Console

# What our own texts use, for terminals that know ASCII or Latin-1 alone.
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
    """Print lines, each of which stays one whatever is in it.

    Args:
        lines: none for an empty one.
        err: to standard error.

    Raises:
        OSError: nobody reads any more, or the disk that it goes to is full.
    """
    global _echoed  # noqa: PLW0603 - as the streams are of the whole process
    _echoed += 1
    stream = sys.stderr if err else sys.stdout
    stream.write("".join(f"{visible(line)}\n" for line in lines or ("",)))
    stream.flush()


def echo_json(text: str) -> None:
    """Print a JSON text of one or several lines, valid in any encoding.

    Inside JSON a character's escape is the character, and outside of strings there is none that needs one.

    Raises:
        OSError: as `echo`.
    """
    text = visible(text, keep="\n")
    if "utf" not in (sys.stdout.encoding or "utf").lower():
        text = _NOT_ASCII.sub(lambda found: _escape(found[0]), text)
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def echo_file(text: str) -> None:
    """Print the content of a file, for a shell to put into one: as it is and in UTF-8, whatever the terminal is.

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
    """A Rich console that shows text as it is: no markup, no emoji codes, no control characters but Rich's own.

    Args:
        stderr: write to standard error.
        width: None for the terminal's.
        highlight: color numbers and the like.
    """
    from rich.console import Console as RichConsole
    from rich.segment import Segment
    from rich.text import Text

    class Plain(RichConsole):
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
    """Have standard output and error replace characters that their encoding lacks, and be there even where the shell closed them."""
    codecs.register_error("edgekit", _replaced)
    if sys.stdout is None:  # closed by the shell
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - it is standard output from now on
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="edgekit")


def abandon(stream: TextIO) -> None:
    """Let what is still to be written to a stream that takes no more go nowhere, or Python complains about it as it ends."""
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
    """As JSON escapes it: of what lies above U+FFFF, the two halves of UTF-16."""
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{int.from_bytes(units[i : i + 2], 'big'):04x}" for i in range(0, len(units), 2))
