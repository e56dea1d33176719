"""Changes to what PyTorch and safetensors write: records of a zip, operations of a pickle, tensors and headers."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import safetensors.torch
import torch
from torch import nn

from .judge import TRAP
from .mutators import Draws, changed_bytes, changed_tree, json_bytes


def repacked(draws: Draws, content: bytes) -> bytes:
    """A zip of PyTorch's with one record changed, renamed, doubled or left out, and checksums that are right."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    name, change = draws.choice(sorted(records)), draws.random()
    pickled = next(name for name in records if name.endswith("data.pkl"))
    if change < 0.45:
        records[pickled] = (
            _opcodes(draws, records[pickled]) if draws.random() < 0.6 else changed_bytes(draws, records[pickled])
        )
    elif change < 0.65:
        records[name] = changed_bytes(draws, records[name])
    elif change < 0.75:
        del records[name]
    elif change < 0.85:
        records[f"{name}{draws.choice(('x', '/../y', chr(27)))}"] = records.pop(name)
    else:
        records[pickled] = pickle_(draws)
    stream = io.BytesIO()
    with zipfile.ZipFile(
        stream, "w", draws.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    ) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return stream.getvalue()


def _opcodes(draws: Draws, content: bytes) -> bytes:
    """A pickle with one operation left out, doubled, or put in elsewhere."""
    try:
        starts = [place for _, _, place in pickletools.genops(content) if place is not None]
    except Exception:  # not one any more
        return changed_bytes(draws, content)
    ends = [*starts[1:], len(content)]
    at, other = draws.randrange(len(starts)), draws.randrange(len(starts))
    operation = content[starts[at] : ends[at]]
    change = draws.randrange(3)
    if change == 0:
        return content[: starts[at]] + content[ends[at] :]
    if change == 1:
        return content[: ends[at]] + operation + content[ends[at] :]
    return content[: starts[other]] + operation + content[starts[other] :]


class _Runs:
    """Pickled, it calls what it is told to."""

    def __init__(self, function: str, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        module, _, name = self.function.rpartition(".")
        return getattr(__import__(module, fromlist=[name]), name), self.arguments


def pickle_(draws: Draws) -> bytes:
    """A pickle that runs code, nests, refers to itself or claims much."""
    protocol, nested = draws.choice((0, 2, 4, 5)), []
    for _ in range(draws.choice((10, 300))):
        nested = [nested]
    known: list[Callable[[], bytes]] = [
        lambda: pickle.dumps(_Runs("os.system", "true"), protocol),
        lambda: pickle.dumps({"state_dict": _Runs("builtins.eval", "1")}, protocol),
        f"c{TRAP}\nfactory\n(tR.".encode,
        lambda: b"cos\nsystem\n(S'true'\ntR.",
        lambda: pickle.dumps(nested, protocol),
        lambda: b"\x80\x02" + b"(" * 100_000 + b".",
        lambda: b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
        lambda: b"\x80\x04\x8e" + (1 << draws.choice((20, 40, 62))).to_bytes(8, "little") + b"x.",
        lambda: b"\x80\x02\x8b" + (1 << 30).to_bytes(4, "little") + b"1.",
        lambda: b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",  # holds itself
        lambda: b"ctorch._utils\n_rebuild_tensor_v2\n(tR.",
        lambda: b"ctorch\nzeros\n(L1099511627776L\ntR.",
        lambda: pickle.dumps([[1]] * 3, protocol),
        lambda: pickle.dumps("x", protocol),
    ]  # fmt: skip
    return draws.choice(known)()


def saved(draws: Draws, content: Any) -> bytes:
    stream = io.BytesIO()
    try:
        torch.save(content, stream, _use_new_zipfile_serialization=draws.random() < 0.9)
    except Exception:  # a value that cannot be pickled
        return pickle.dumps(None)
    return stream.getvalue()


def changed_content(draws: Draws, content: Any) -> Any:
    """What a checkpoint holds, with places changed: tensors, too, become other tensors or none."""
    if draws.random() < 0.35 and isinstance(content, dict):
        return _other_tensor(draws, content)
    if draws.random() < 0.3 and isinstance(content, dict) and content:
        key = draws.choice(sorted(content, key=str))
        return {**content, key: changed_tree(draws, content[key])}
    return changed_tree(draws, content)


def _other_tensor(draws: Draws, content: dict[Any, Any]) -> dict[Any, Any]:
    """One tensor below becomes another."""
    key = draws.choice(sorted(content, key=str))
    value = content[key]
    if isinstance(value, dict) and value:
        return {**content, key: _other_tensor(draws, value)}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return {**content, key: [_other_tensor(draws, value[0]), *value[1:]]}
    old = value if isinstance(value, torch.Tensor) else torch.zeros(2)
    made: list[Callable[[], Any]] = [
        lambda: torch.full_like(old.float(), draws.choice((float("nan"), float("inf"), 1e38))), lambda: old.to(torch.complex64), old.double,
        old.half, old.to_sparse, lambda: torch.zeros(0), lambda: torch.zeros(1).expand(1 << 31), lambda: old.flatten()[:1], old.bool,

        lambda: old.unsqueeze(0), lambda: torch.empty(3, device="meta"), lambda: nn.Parameter(old.float()), lambda: torch.tensor(-5), lambda: None,
        lambda: torch.quantize_per_tensor(old.float(), 0.1, 0, torch.qint8), lambda: old.to(torch.float8_e4m3fn), lambda: torch.Size([1, 2]),
    ]  # fmt: skip
    return {**content, key: draws.choice(made)()}


def tensors(draws: Draws, content: bytes) -> bytes:
    """A safetensors file with another header, other data, or tensors of other shapes and types."""
    kind = draws.random()
    if kind < 0.3:
        return changed_bytes(draws, content)
    (size,) = struct.unpack_from("<Q", content)
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    if kind < 0.4:
        written = content[8 : 8 + size]
        size = draws.choice((0, 1, size - 1, size + 1, len(content), 1 << 32, 1 << 63, 2**64 - 1))
        return struct.pack("<Q", size) + written + data
    if kind < 0.75:
        written = json_bytes(draws, changed_tree(draws, header))
        return struct.pack("<Q", len(written)) + written + data
    tensors = safetensors.torch.load(content)
    name = draws.choice(sorted(tensors))
    old = tensors[name]
    others = [
        old.double(),
        old.half(),
        old.flatten(),
        torch.zeros(0),
        old.unsqueeze(0),
        torch.full_like(old.float(), float("nan")),
        old.to(torch.bfloat16),
        old.long(),
        old.bool(),
    ]
    tensors[draws.choice((name, name, f"{name}.x", "\x1b[2J", "x" * 5000))] = draws.choice(others).contiguous()
    if draws.random() < 0.3:
        del tensors[name]
    return safetensors.torch.save({key: tensor.clone() for key, tensor in tensors.items()})
