"""Text that came from elsewhere, made fit to be shown: no control characters, and no more of it than a line can take."""

from __future__ import annotations

import re
import reprlib
from typing import Any

# What moves a terminal's cursor, changes its state, reverses the order of what follows, or cannot be encoded: C0 and C1 controls,
# bidirectional controls (https://trojansource.codes), Unicode's line separators, lone surrogates.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_QUOTED = 80


def visible(text: str, keep: str = "") -> str:
    r"""The text with every unsafe character written as `\u001b`, which inside JSON stands for the same character.

    Args:
        text: of a file, class, bundle or device name, or of a whole line.
        keep: characters that are meant, for instance the newlines of a text of several lines.
    """
    return _UNSAFE.sub(lambda found: found[0] if found[0] in keep else f"\\u{ord(found[0]):04x}", text)


def shortened(text: str, limit: int = _QUOTED) -> str:
    """At most `limit` characters of a text: its beginning, its end, and how many were left out between them."""
    if len(text) <= limit:
        return text
    end = limit // 4
    begin = limit - end
    return f"{text[:begin]}… ({len(text) - begin - end} characters left out) …{text[-end:]}"


def quoted(value: Any, limit: int = _QUOTED) -> str:
    """A value as Python writes it, short whatever its size: what a message may quote of the user's data."""
    writer = reprlib.Repr()
    writer.maxstring = writer.maxother = writer.maxlong = limit
    writer.maxlevel, writer.maxlist, writer.maxtuple, writer.maxdict, writer.maxset = 3, 6, 6, 6, 6
    try:
        written = writer.repr(value)
    except ValueError:  # an integer of more digits than Python writes
        written = f"a number of {value.bit_length() if isinstance(value, int) else 'too many'} bits"
    return visible(shortened(written, 2 * limit))
