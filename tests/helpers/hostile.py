"""Inputs that nobody should be able to do harm with: values, texts and bytes, drawn from a seed."""

from __future__ import annotations

import io
import random
import zipfile
from typing import Any

# Written into YAML as they stand: tags, aliases, numbers and texts that parsers stumble over.
TOKENS = [
    "2001-99-99", "!!int abc", "!!float abc", "!!bool maybe", "!!timestamp x", "!!map [1]", "!!python/object:os.system x", "!!binary x",
    "!!set {a}", "!!omap [a]", "9" * 5000, "-1", "1e999", ".nan", "-.inf", "0x", "0b2", "1:99:99", "~", "null", "''", '"\\0"', "[", "]", "{", "}",
    "[[[[[[[[", "{a: {b: {c: 1}}}", "*a", "&a [*a]", "&a", "<<", "<<: 1", "=", "- - -", "? x", "? [1]", ": :", "%YAML 9.9", "---", "...", "\t",
    "\x00", "\x1b[31m", "\x85", "\u2028", "\U0001f600", "'", '"', "|", ">", "@", "`", "#", "!", "!<x> y", "n" * 3000, "../../etc/passwd", "/dev/zero",
]  # fmt: skip

VALUES: list[Any] = [
    None, True, False, 0, -1, 2**63, 2**200, -(2**70), 1e308, float("inf"), float("nan"), "", "x" * 5000, "\x1b[2J", "a\nerror: b", "../x",
    "/etc/passwd", "a\x00b", [], {}, [[]], [None], {"": None}, [[[[[[[[1]]]]]]]], ["x"] * 500, {"a": {"b": {"c": 1}}},
]  # fmt: skip


def text(random_: random.Random, original: str) -> str:
    """A text of lines with one to four changes."""
    lines = original.splitlines()
    for _ in range(random_.randint(1, 4)):
        at = random_.randrange(len(lines))
        key, colon, value = lines[at].partition(":")
        token = random_.choice(TOKENS)
        change = random_.randrange(7)
        if change == 0:
            lines[at] = f"{key}{colon} {token}"
        elif change == 1:
            lines[at] = f"{key}{token}{colon}{value}"
        elif change == 2:
            lines.insert(at, lines[random_.randrange(len(lines))])
        elif change == 3:
            del lines[at]
            lines = lines or [""]
        elif change == 4:
            lines[at] = " " * random_.randrange(8) + lines[at].lstrip()
        elif change == 5:
            cut = random_.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:cut] + token + lines[at][cut:]
        else:
            lines[at] = token
    return "\n".join(lines) + "\n"


def value(random_: random.Random, content: Any) -> Any:
    """A JSON value with one place in it changed: replaced, left out, or doubled."""
    if isinstance(content, dict) and content and random_.random() < 0.9:
        key = random_.choice(sorted(content))
        changed = dict(content)
        if random_.random() < 0.1:
            del changed[key]
        elif random_.random() < 0.05:
            changed[str(random_.choice(VALUES))] = changed[key]
        else:
            changed[key] = value(random_, content[key])
        return changed
    if isinstance(content, list) and content and random_.random() < 0.8:
        at = random_.randrange(len(content))
        return [*content[:at], value(random_, content[at]), *content[at + random_.randrange(2) :]]
    return random_.choice(VALUES)


def damaged(random_: random.Random, content: bytes) -> bytes:
    """Bytes with some changed, cut away, doubled or put in."""
    changed = bytearray(content)
    for _ in range(random_.randint(1, 3)):
        at = random_.randrange(len(changed)) if changed else 0
        change = random_.randrange(5)
        if change == 0 and changed:
            changed[at] ^= 1 << random_.randrange(8)
        elif change == 1:
            changed[at : at + random_.randrange(64)] = random_.randbytes(random_.randrange(64))
        elif change == 2:
            del changed[at:]
        elif change == 3:
            del changed[at : at + random_.randrange(1, 200)]
        else:
            changed[at:at] = changed[: random_.randrange(300)]
    return bytes(changed)


def npy(header: str, data: bytes = b"") -> bytes:
    """A .npy file, version 1, with that header."""
    padded = header + " " * (-(len(header) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode("latin-1") + data


def npz(compression: int = zipfile.ZIP_DEFLATED, **members: bytes) -> bytes:
    """A .npz with members of any content."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()
