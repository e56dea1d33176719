"""Checkpoints: `last.ckpt` gone on from, foreign weights loaded into a network, and the models of a run's stages."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

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
from edgekit.train.loop.checkpoint import read_checkpoint
from edgekit.train.loop.engine import fit
from edgekit.train.loop.loader import ShuffledImages
from edgekit.train.loop.resumable import CHECKPOINT
from edgekit.train.loop.step import Batch, StepDraws, StepOutcome
from tests.helpers.tiny_bundle import some_images

from .judge import Broken
from .mutators import Draws, change_file, changed_bytes, changed_tree, copied, json_bytes
from .weight_bytes import changed_content, pickle_, repacked, saved, tensors

# Foreign descriptions may ask for networks of any size within `models.store`'s bounds; a checkpoint is read whole.
MEMORY = 1024 << 20
_TINY = Architecture(name="resnet10", width=0.125, stem="strided")


class _Linear(nn.Module):
    """A task that trains in a moment; has a buffer beside its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, batch: Batch, draws: StepDraws, monitor: bool) -> StepOutcome:
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
            path.write_bytes(repacked(draws, self._ours))
        elif kind < 0.95:
            path.write_bytes(saved(draws, changed_content(draws, copy.deepcopy(self._tree))))
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
            content = tensors(draws, content)
        elif kind < 0.4:
            content = changed_bytes(draws, content, self._contents)
        elif kind < 0.6 and content.startswith(b"PK"):
            content = repacked(draws, content)
        elif kind < 0.9:
            content = saved(
                draws,
                changed_content(
                    draws,
                    torch.load(
                        self._corpus / f"{draws.choice(('plain', 'containers', 'teacher'))}.pth", weights_only=False
                    ),
                ),
            )
        else:
            content = pickle_(draws)
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
        description, weights = made / "model.json", made / "model.safetensors"
        if kind < 0.5:
            description.write_bytes(json_bytes(draws, changed_tree(draws, json.loads(description.read_text()))))
        elif kind < 0.85:
            weights.write_bytes(tensors(draws, weights.read_bytes()))
        else:
            change_file(draws, draws.choice((description, weights)), self._secret)
        return lambda: (load_classifier if name == "classifier" else load_pretrained)(made)
