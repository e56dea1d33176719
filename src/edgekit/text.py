"""Text that is shown: untrusted text without control characters and short enough for a line; a noun after a number."""

from __future__ import annotations

import re
import reprlib
from typing import Any

# Characters that move a terminal's cursor, change its state, reverse the text order, or cannot be encoded: C0 and C1 controls,
# bidirectional controls (https://trojansource.codes), Unicode's line separators, lone surrogates.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_QUOTED = 80


def visible(text: str, keep: str = "") -> str:
    r"""Return the text with every unsafe character as an escape such as `\u001b`, which in JSON means the same character.

    Args:
        text: a name of a file, class, bundle or device, or a whole line.
        keep: unsafe characters to keep, for example the newlines of a text of several lines.
    """
    return _UNSAFE.sub(lambda found: found[0] if found[0] in keep else f"\\u{ord(found[0]):04x}", text)


def plural(count: int, noun: str, ending: str = "s") -> str:
    """Return a noun as it stands after a number: `image` after 1, else `images`."""
    return noun if count == 1 else noun + ending


def counted(count: int, noun: str, several: str = "") -> str:
    """Return a number with its noun: `1 image`, `1,200 images`, `3 classes`.

    Args:
        count: of the things.
        noun: of one of them.
        several: the noun for several; default: with an s.
    """
    return f"{count:,} {noun if count == 1 else several or f'{noun}s'}"


def shortened(text: str, limit: int = _QUOTED) -> str:
    """Return at most `limit` characters of a text: its beginning, its end, and the number of characters left out between."""
    if len(text) <= limit:
        return text
    end = limit // 4
    begin = limit - end
    return f"{text[:begin]}… ({len(text) - begin - end} characters left out) …{text[-end:]}"


def quoted(value: Any, limit: int = _QUOTED) -> str:
    """Return a value as Python writes it, shortened, for quoting the user's data in a message."""
    writer = reprlib.Repr()
    writer.maxstring = writer.maxother = writer.maxlong = limit
    writer.maxlevel, writer.maxlist, writer.maxtuple, writer.maxdict, writer.maxset = 3, 6, 6, 6, 6
    try:
        written = writer.repr(value)
    except ValueError:  # an integer of more digits than Python writes
        written = f"a number of {value.bit_length() if isinstance(value, int) else 'too many'} bits"
    return visible(shortened(written, 2 * limit))
