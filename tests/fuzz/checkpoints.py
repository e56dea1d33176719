"""Checkpoints: `last.ckpt` gone on from, foreign weights loaded into a network, and the models of a run's stages."""

from __future__ import annotations

import copy
import io
import json
import pickle
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

from edgekit.data.images import ImageSet
from edgekit.models.checkpoints import read_state_dicts
from edgekit.models.classifier import Classifier
from edgekit.models.encoders import build_encoder
from edgekit.models.heads import ProjectionHead
from edgekit.models.store import Pretrained, load_classifier, load_pretrained, save_classifier, save_pretrained
from edgekit.models.weights import load_weights
from edgekit.recipe import Architecture, Hardware, Optimizer
from edgekit.train.engine import CHECKPOINT, fit, read_checkpoint
from edgekit.train.loader import ShuffledImages
from edgekit.train.tasks import Batch, Outcome
from edgekit.train.tasks import Draws as StepDraws
from tiny_bundle import some_images

from .judge import TRAP, Broken
from .mutators import Draws, change_file, changed_bytes, changed_tree, copied, json_bytes

# Foreign descriptions may ask for networks of any size within `models.store`'s bounds; a checkpoint is read whole.
MEMORY = 1024 << 20
_TINY = Architecture(name="resnet10", width=0.125, stem="strided")


class _Linear(nn.Module):
    """A task that trains in a moment; has a buffer beside its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, batch: Batch, draws: StepDraws, monitor: bool) -> Outcome:
        return {"loss": self.linear(self.norm(batch["images"].float().mean((1, 2)) / 255)).square().mean(), "logs": {}}


class _Killed(BaseException):
    """Ends a training as SIGKILL would, after its checkpoint was written."""


def _train(folder: Path, epochs: int, stop: bool = False) -> None:
    images = some_images(32)
    batches = ShuffledImages(ImageSet(images, [f"{i}" for i in range(32)], [f"{i:032}" for i in range(32)]), 16, 0)
    task = _Linear()

    def kill() -> dict[str, float]:
        raise _Killed

    with suppress(_Killed):
        fit(
            task, batches, folder, stage="pretrain", epochs=epochs, optimizer=Optimizer(name="sgd", lr=0.01, warmup_epochs=0), seed=0,
            hardware=Hardware(accelerator="cpu", checkpoint_seconds=0), observe=kill if stop else None, observe_every=2 if stop else 0,
        )  # fmt: skip


def make_corpus(folder: Path) -> None:
    """A checkpoint of a training that was killed, models of both kinds, and weights as other programs write them."""
    torch.manual_seed(0)
    _train(folder / "training", 2, stop=True)
    (folder / CHECKPOINT).write_bytes((folder / "training" / CHECKPOINT).read_bytes())
    model = Classifier.build(_TINY, 16, ["cat", "dog"], [])
    for kind in ("classifier", "pretrained"):
        (folder / kind).mkdir()
    save_classifier(folder / "classifier", model)
    encoder = build_encoder(_TINY, 16)
    save_pretrained(
        folder / "pretrained",
        Pretrained(_TINY, 16, encoder, ProjectionHead(encoder.feature_dim, hidden=16, output=8, layers=2)),
    )
    weights = _network().state_dict()
    contents = {
        "plain": weights,
        "containers": {
            "state_dict": weights,
            "state_dict_ema": weights,
            "epoch": 3,
            "best": np.float64(0.5),
            "optimizer": {"state": {0: {"step": 1}}},
        },
        "prefixed": {f"module.backbone.{name}": tensor for name, tensor in weights.items()}
        | {"n_averaged": torch.tensor(3)},
        "teacher": {"student": {"module": weights}, "teacher": {"module": weights}},
    }
    for name, content in contents.items():
        torch.save(content, folder / f"{name}.pth")
        torch.save(content, folder / f"{name}-old.pth", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(weights, folder / "plain.safetensors")


def _network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 5))


class Target:
    """One checkpoint, file of weights or model a case."""

    def __init__(self, corpus: Path, secret: Path) -> None:
        warnings.simplefilter("ignore")
        self._corpus, self._secret = corpus, secret
        self._foreign = sorted([*corpus.glob("*.pth"), *corpus.glob("*.safetensors")])
        self._contents = [path.read_bytes() for path in self._foreign]
        self._ours = (corpus / CHECKPOINT).read_bytes()
        self._tree = torch.load(corpus / CHECKPOINT, weights_only=True)

    def run(self, draws: Draws, folder: Path) -> Callable[[], object]:
        """Make a file; gives what loads it."""
        kind = draws.random()
        if kind < 0.4:
            return self._checkpoint(draws, folder)
        return self._weights(draws, folder) if kind < 0.7 else self._model(draws, folder)

    def _checkpoint(self, draws: Draws, folder: Path) -> Callable[[], object]:
        path = folder / "pretrain" / CHECKPOINT
        path.parent.mkdir()
        kind = draws.random()
        if kind < 0.25:
            path.write_bytes(changed_bytes(draws, self._ours, self._contents))
        elif kind < 0.5:
            path.write_bytes(_repacked(draws, self._ours))
        elif kind < 0.95:
            path.write_bytes(_saved(draws, _changed_content(draws, copy.deepcopy(self._tree))))
        else:
            path.write_bytes(self._ours)
            change_file(draws, path, self._secret)
        if draws.random() < 0.4:
            return lambda: read_checkpoint(path, "cpu")
        return lambda: _train(path.parent, 2)

    def _weights(self, draws: Draws, folder: Path) -> Callable[[], object]:
        original = draws.choice(self._foreign)
        path, content, kind = folder / f"weights{original.suffix}", original.read_bytes(), draws.random()
        if original.suffix == ".safetensors" and kind < 0.7:
            content = _tensors(draws, content)
        elif kind < 0.4:
            content = changed_bytes(draws, content, self._contents)
        elif kind < 0.6 and content.startswith(b"PK"):
            content = _repacked(draws, content)
        elif kind < 0.9:
            content = _saved(
                draws,
                _changed_content(
                    draws,
                    torch.load(
                        self._corpus / f"{draws.choice(('plain', 'containers', 'teacher'))}.pth", weights_only=False
                    ),
                ),
            )
        else:
            content = _pickle(draws)
        path.write_bytes(content)
        if draws.random() < 0.03:
            change_file(draws, path, self._secret)
        key = draws.choice((None, None, "state_dict", "teacher", "module.backbone", "\x1b[2J", "x" * 10_000, ""))

        def act() -> None:
            if draws.random() < 0.3:
                read_state_dicts(str(path), "--weights", key)
            else:
                network = _network()
                load_weights(network, str(path), "--weights", "mine", key)
                if not all(tensor.isfinite().all() for tensor in network.state_dict().values()):
                    raise Broken("weights that are no numbers were loaded")

        return act

    def _model(self, draws: Draws, folder: Path) -> Callable[[], object]:
        name = draws.choice(("classifier", "pretrained"))
        made, kind = copied(self._corpus / name, folder / name), draws.random()
        told, weights = made / "model.json", made / "model.safetensors"
        if kind < 0.5:
            told.write_bytes(json_bytes(draws, changed_tree(draws, json.loads(told.read_text()))))
        elif kind < 0.85:
            weights.write_bytes(_tensors(draws, weights.read_bytes()))
        else:
            change_file(draws, draws.choice((told, weights)), self._secret)
        return lambda: (load_classifier if name == "classifier" else load_pretrained)(made)


def _repacked(draws: Draws, content: bytes) -> bytes:
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
        records[pickled] = _pickle(draws)
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


def _pickle(draws: Draws) -> bytes:
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


def _saved(draws: Draws, content: Any) -> bytes:
    stream = io.BytesIO()
    try:
        torch.save(content, stream, _use_new_zipfile_serialization=draws.random() < 0.9)
    except Exception:  # a value that cannot be pickled
        return pickle.dumps(None)
    return stream.getvalue()


def _changed_content(draws: Draws, content: Any) -> Any:
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


def _tensors(draws: Draws, content: bytes) -> bytes:
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
