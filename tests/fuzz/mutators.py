"""Changes to bytes, to trees of JSON or YAML values, and to files, all drawn from a `random.Random`."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.helpers import hostile

Draws = random.Random

# Sizes, counts and offsets that parsers get wrong: around the powers of two, the extremes of 16, 32 and 64 bits.
_NUMBERS = [
    0,
    1,
    2,
    3,
    7,
    8,
    127,
    128,
    255,
    256,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x10000,
    1 << 24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**64 - 1,
]
_HEADER = 512  # half of the changes hit the first bytes, where a format says what follows
_LARGEST = 1 << 18  # bytes that a small file may grow to

# What `json.dumps` cannot write by itself; they stand for these texts (see `json_bytes`).
_TEXTS = {
    "@@deep@@": "[" * 3000 + "]" * 3000,
    "@@deep-mapping@@": '{"a":' * 2000 + "1" + "}" * 2000,
    "@@digits@@": "9" * 5000,
    "@@exponent@@": "1e999999",
    "@@surrogate@@": '"\\ud800"',
    "@@escape@@": '"\\u001b]0;title\\u0007\\nerror: forged"',
    "@@twice@@": '{"a": 1, "a": 2}',
    "@@bare@@": "NaN",
}
VALUES = [
    *hostile.VALUES, *_TEXTS, "x" * 100_000, ["x"] * 5000, {str(i): i for i in range(2000)}, "\u202egnp.exe", "cafe\u0301", "\U0010ffff",
    1e-320, -0.0, 10**18, -(10**18), "true", "1", "NaN", "../" * 40 + "etc/passwd", "edgekit_trap:factory", "/dev/zero", "~root/x",
]  # fmt: skip


def changed_bytes(draws: Draws, content: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Bytes with one to four changes.

    Args:
        draws: where the changes come from.
        content: of a valid file.
        others: further valid files, parts of which may be put in.
    """
    changed = bytearray(content)
    for _ in range(draws.choice((1, 1, 1, 2, 3, 4))):
        draws.choice(_BYTES)(draws, changed, others)
    return bytes(changed[:_LARGEST] if len(content) < _LARGEST else changed)


def _place(draws: Draws, content: bytearray) -> int:
    most = min(len(content), _HEADER) if draws.random() < 0.5 else len(content)
    return draws.randrange(most) if most else 0


def _span(draws: Draws, content: bytearray) -> tuple[int, int]:
    begin = _place(draws, content)
    return begin, min(len(content), begin + draws.choice((1, 2, 4, 8, 16, 64, 256, 1024)))


def _flip(draws: Draws, content: bytearray, others: Sequence[bytes]) -> None:
    if content:
        content[_place(draws, content)] ^= 1 << draws.randrange(8)


def _set(draws: Draws, content: bytearray, others: Sequence[bytes]) -> None:
    if content:
        content[_place(draws, content)] = draws.choice((0, 1, 0x0A, 0x1B, 0x22, 0x2F, 0x7F, 0x80, 0xFE, 0xFF))


def _number(draws: Draws, content: bytearray, others: Sequence[bytes]) -> None:
    """A length, count or offset becomes another one."""
    size, at = draws.choice((2, 4, 4, 8)), _place(draws, content)
    number = draws.choice(_NUMBERS) if draws.random() < 0.8 else draws.getrandbits(8 * size)
    content[at : at + size] = (number % (1 << 8 * size)).to_bytes(size, draws.choice(("little", "big")))


def _noise(draws: Draws, content: bytearray, others: Sequence[bytes]) -> None:
    begin, end = _span(draws, content)
    content[begin:end] = draws.randbytes(end - begin)


def _zeros(draws: Draws, content: bytearray, others: Sequence[bytes]) -> None:
    begin, end = _span(draws, content)
    content[begin:end] = bytes(end - begin)


def _cut(draws: Draws, content: bytearray, others: Sequence[bytes]) -> None:
    del content[draws.randrange(len(content) + 1) :]


def _remove(draws: Draws, content: bytearray, others: Sequence[bytes]) -> None:
    begin, end = _span(draws, content)
    del content[begin:end]


def _insert(draws: Draws, content: bytearray, others: Sequence[bytes]) -> None:
    at = _place(draws, content)
    content[at:at] = draws.choice(
        (b"\x00", b"\n", b"\xff\xfe", b"%n%s", b"\x1b[2J", draws.randbytes(draws.randrange(40)))
    )


def _double(draws: Draws, content: bytearray, others: Sequence[bytes]) -> None:
    begin, end = _span(draws, content)
    content[begin:begin] = content[begin:end] * draws.choice((1, 1, 2, 50))


def _swap(draws: Draws, content: bytearray, others: Sequence[bytes]) -> None:
    (a, b), (c, d) = sorted((_span(draws, content), _span(draws, content)))
    if b <= c:
        content[a:d] = content[c:d] + content[b:c] + content[a:b]


def _splice(draws: Draws, content: bytearray, others: Sequence[bytes]) -> None:
    """The beginning of this file and the end of another one."""
    if others:
        other = draws.choice(others)
        content[_place(draws, content) :] = other[draws.randrange(len(other) + 1) :]


_BYTES: list[Callable[[Draws, bytearray, Sequence[bytes]], None]] = [
    _flip, _flip, _set, _number, _number, _noise, _zeros, _cut, _remove, _insert, _double, _swap, _splice,
]  # fmt: skip


def changed_tree(draws: Draws, content: Any) -> Any:
    """A tree of mappings and lists with one to three places changed: another value, none, doubled, renamed, added, swapped."""
    for _ in range(draws.choice((1, 1, 2, 3))):
        content = _one_place(draws, content)
    return content


def _one_place(draws: Draws, content: Any) -> Any:
    if isinstance(content, dict) and content and draws.random() < 0.93:
        key = draws.choice(sorted(content, key=str))
        made, change = dict(content), draws.random()
        if change < 0.1:
            del made[key]
        elif change < 0.14:
            made[str(draws.choice(VALUES))[:5000]] = draws.choice(VALUES)
        elif change < 0.18:
            made[key] = made[draws.choice(sorted(content, key=str))]
        else:
            made[key] = _one_place(draws, content[key])
        return made
    if isinstance(content, list) and content and draws.random() < 0.85:
        at = draws.randrange(len(content))
        made, change = list(content), draws.random()
        if change < 0.1:
            del made[at]
        elif change < 0.2:
            made[at:at] = [made[at]] * draws.choice((1, 2, 300))
        else:
            made[at] = _one_place(draws, content[at])
        return made
    return _near(draws, content) if draws.random() < 0.4 else draws.choice(VALUES)


def _near(draws: Draws, value: Any) -> Any:
    """Something of the same type, or nearly: what checks of types let pass."""
    if isinstance(value, bool):
        return draws.choice((not value, int(value), str(value)))
    if isinstance(value, int):
        return draws.choice(
            (-value, value + 1, value - 1, -1, 0, 1, float(value), str(value), value * 1000, 2**31, 2**63 - 1)
        )
    if isinstance(value, float):
        return draws.choice(
            (
                -value,
                value * 1e300,
                value * 1e-300,
                0.0,
                1.0,
                math.nan,
                math.inf,
                -1e308,
                int(value) if math.isfinite(value) else 0,
            )
        )
    if isinstance(value, str):
        at = draws.randrange(len(value) + 1)
        put = draws.choice(
            (
                "\x1b[2J",
                "\nerror: x",
                "\x00",
                "\u202e",
                "\ud800",
                "/",
                "..",
                "%s",
                "'",
                '"',
                "</script>",
                "|",
                "\\",
                " ",
                "é",
                "",
            )
        )
        return draws.choice((value[:at] + put + value[at:], value[:at], value.upper(), value * 50, ""))
    return draws.choice(VALUES)


def json_bytes(draws: Draws, content: Any) -> bytes:
    """A tree as JSON, in the ways that it can be written: NaN, duplicate keys, other encodings; sometimes damaged on top."""
    text = json.dumps(content, ensure_ascii=draws.random() < 0.5, default=str)
    for marker, written in _TEXTS.items():
        text = text.replace(f'"{marker}"', written)
    form = draws.random()
    if form < 0.02:
        return b"\xef\xbb\xbf" + text.encode(errors="surrogatepass")
    if form < 0.04:
        return text.encode("utf-16", errors="surrogatepass")
    encoded = text.encode(errors="surrogatepass")  # a lone surrogate becomes bytes that are no UTF-8
    return changed_bytes(draws, encoded) if form < 0.15 else encoded


def change_file(draws: Draws, path: Path, secret: Path) -> str:
    """Put something else where a file is; gives what.

    Args:
        draws: where it comes from.
        path: of the file.
        secret: a file outside, which nobody may be led to.
    """
    kind = draws.choice(
        ("missing", "empty", "folder", "loop", "dangling", "outside", "zero", "pipe", "sparse", "chain", "binary")
    )
    path.unlink(missing_ok=True)
    if kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "dangling":
        path.symlink_to("nothing")
    elif kind == "outside":
        path.symlink_to(secret if draws.random() < 0.5 else os.path.relpath(secret, path.parent))
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "sparse":
        with open(path, "wb") as stream:
            stream.truncate(draws.choice((1 << 20, 1 << 26, 1 << 31, 1 << 33)))
    elif kind == "chain":
        for i in range(60):  # more links than the system follows
            (path.parent / f".link{i}").symlink_to(f".link{i + 1}")
        path.symlink_to(".link0")
    elif kind == "binary":
        path.write_bytes(draws.randbytes(draws.choice((1, 100, 10_000))))
    return kind


def copied(source: Path, target: Path) -> Path:
    """A copy of a folder or file of the corpus."""
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copyfile(source, target)
    return target
