"""Checkpoints with several weights: the average over training is preferred and reported, the user can choose, other files are named."""

from __future__ import annotations

import argparse
import collections
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from edgekit.errors import RecipeError
from edgekit.models.weights import LoadedWeights, load_weights

Weights = dict[str, Tensor]


def network() -> nn.Module:
    return nn.Sequential(
        collections.OrderedDict(conv=nn.Conv2d(3, 8, 3), bn=nn.BatchNorm2d(8), flat=nn.Flatten(), fc=nn.Linear(8, 5))
    )


def weights(seed: int) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(t.shape, generator=generator) if t.is_floating_point() else t
        for name, t in network().state_dict().items()
    }


def near(other: Weights, seed: int = 9) -> Weights:
    """Weights like an average over training: different from the weights themselves, but close to them."""
    return {n: t + 0.1 * weights(seed)[n] if t.is_floating_point() else t for n, t in other.items()}


def under(prefix: str, some: Weights) -> Weights:
    return {prefix + name: tensor for name, tensor in some.items()}


RAW, EMA, OTHER = weights(1), near(weights(1)), weights(2)
OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(3), "step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}
FLOATS = {n: t for n, t in EMA.items() if "running" not in n and "batches" not in n}


def load(folder: Path, content: Any, key: str | None = None, name: str = "w.pth") -> tuple[nn.Module, LoadedWeights]:
    if name.endswith("safetensors"):
        safetensors.torch.save_file(content, folder / name)
    else:
        torch.save(content, folder / name)
    filled = network()
    return filled, load_weights(filled, str(folder / name), "--weights", "mine", key)


def holds(filled: nn.Module, wanted: Weights) -> bool:
    return all(torch.equal(tensor, wanted[name]) for name, tensor in filled.state_dict().items())


@pytest.mark.parametrize(
    ("content", "wanted", "place"),
    [
        ({"state_dict": RAW, "state_dict_ema": EMA, "optimizer": OPTIMIZER, "epoch": 3}, EMA, "state_dict_ema"),  # timm
        ({"model": RAW, "model_ema": EMA}, EMA, "model_ema"),  # torchvision's references, DeiT
        ({"model_ema": EMA}, EMA, "model_ema"),
        ({"model": RAW, "ema_state_dict": under("module.", EMA)}, EMA, "ema_state_dict"),
        ({"model": RAW, "ema": {"module": EMA, "updates": 7}}, EMA, "ema.module"),
        ({"net": RAW, "swa_state_dict": EMA | {"n_averaged": torch.tensor(9)}}, EMA, "swa_state_dict"),
        (under("online_model.", RAW) | under("ema_model.", EMA) | {"initted": torch.tensor(True)}, EMA, "ema_model"),
        ({"state_dict": under("model.", RAW) | under("model_ema.module.", EMA)}, EMA, "state_dict"),  # Lightning, two networks
        ({"callbacks": {"EMA": {"ema_state_dict": under("model.", EMA)}}, "state_dict": under("model.", RAW)}, EMA,
         "callbacks.EMA.ema_state_dict"),
        ({"student": under("module.backbone.", RAW), "teacher": under("backbone.", EMA)}, EMA, "teacher"),  # DINO
        ({"state_dict": under("student_backbone.", RAW) | under("teacher_backbone.", EMA)}, EMA, "state_dict"),  # DINO in Lightly
    ],
)  # fmt: skip
def test_an_average_is_taken_before_what_it_averages_and_said(
    content: Any, wanted: Weights, place: str, tmp_path: Path
) -> None:
    filled, loaded = load(tmp_path, content)
    assert holds(filled, wanted)
    assert loaded.averaged
    assert f"{loaded.key}.{loaded.prefix}".startswith(place) or loaded.prefix.startswith(place)
    assert "an average of the weights over training (EMA)" in str(loaded)
    if any(torch.equal(RAW["fc.weight"], t) for t in _tensors(content)):
        assert len(loaded.others) == 1
        assert loaded.others[0] in str(loaded)
        # What is said to fit too is a key that takes it.
        chosen, again = load(tmp_path, content, loaded.others[0])
        assert holds(chosen, RAW)
        assert not again.averaged


def _tensors(content: Any) -> list[Tensor]:
    if isinstance(content, Tensor):
        return [content]
    return [t for value in content.values() for t in _tensors(value)] if isinstance(content, dict) else []


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ({"state_dict": RAW, "optimizer": OPTIMIZER}, RAW),
        ({"state_dict": RAW, "state_dict_ema": None}, RAW),
        ({"state_dict": RAW, "state_dict_ema": FLOATS}, RAW),  # an average without the BatchNorms' statistics is not the network
        (under("module.", RAW) | {"n_averaged": torch.tensor(3)}, RAW),  # torch.optim.swa_utils.AveragedModel, its own file
        (under("_orig_mod.module.", RAW), RAW),
        ({"state_dict": under("model.", RAW), "hyper_parameters": {"lr": 0.1}}, RAW),
        ({"my_network": RAW}, RAW),
        ({"teacher": OTHER, "student": RAW}, RAW),  # a distillation: the teacher is another network, not an average
        ({"state_dict": under("teacher.", OTHER) | under("student.", RAW)}, RAW),
        ({"teacher": under("deeper.", OTHER), "student": RAW}, RAW),
        (RAW | under("aux1.", {"fc.weight": torch.rand(5, 8)}) | {"AuxLogits.fc.bias": torch.rand(5)}, RAW),
    ],
)  # fmt: skip
def test_weights_without_an_average(content: Any, wanted: Weights, tmp_path: Path) -> None:
    filled, loaded = load(tmp_path, content)
    assert holds(filled, wanted)
    assert not loaded.averaged
    assert "EMA" not in str(loaded)


def test_everything_that_is_not_used_is_named(tmp_path: Path) -> None:
    content = {
        "state_dict": RAW,
        "state_dict_ema": under("module.", EMA),
        "optimizer": OPTIMIZER,
        "queue": torch.zeros(3),
    }
    _, loaded = load(tmp_path, content)
    assert loaded.unused == {"state_dict": 9, "optimizer": 2, "queue": 1}
    assert str(loaded).endswith("not used: state_dict (9), optimizer (2), queue (1)")
    _, loaded = load(tmp_path, {"state_dict": RAW, "state_dict_ema": FLOATS})
    assert "state_dict_ema (6)" in str(loaded)
    _, loaded = load(tmp_path, RAW | {"aux1.fc.weight": torch.rand(5, 8), "AuxLogits.fc.bias": torch.rand(5)})
    assert loaded.unused == {"aux1": 1, "AuxLogits": 1}


def test_the_user_chooses(tmp_path: Path) -> None:
    dino = {"student": under("module.backbone.", RAW), "teacher": under("backbone.", EMA)}
    for content, key, wanted in (
        ({"state_dict": RAW, "state_dict_ema": EMA}, "state_dict", RAW),
        ({"state_dict": RAW, "deep": {"er": OTHER}}, "deep.er", OTHER),
        (dino, "student", RAW),
        (dino, "teacher.backbone", EMA),
        ({"state_dict": under("encoder_q.", RAW) | under("encoder_k.", EMA)}, "encoder_k", EMA),
    ):
        filled, loaded = load(tmp_path, content, key)
        assert holds(filled, wanted)
        assert loaded.key == key or loaded.key.endswith(f".{key}")
    filled, _ = load(tmp_path, under("a.", RAW) | under("b.", OTHER), "b", "w.safetensors")
    assert holds(filled, OTHER)
    with pytest.raises(
        RecipeError, match=r"holds no weights named state_dict_em; found .*did you mean state_dict_ema"
    ) as caught:
        load(tmp_path, {"state_dict": RAW, "state_dict_ema": EMA}, "state_dict_em")
    assert "\n" not in str(caught.value)
    with pytest.raises(RecipeError, match="does not have the tensors of this network"):
        load(tmp_path, {"state_dict": RAW, "state_dict_ema": FLOATS}, "state_dict_ema")


def test_harmless_things_beside_the_weights_are_no_hindrance(tmp_path: Path) -> None:
    beside = {"best": np.float64(0.5), "curve": np.zeros(3, np.float32), "args": argparse.Namespace(out=tmp_path)}
    filled, _ = load(tmp_path, {"state_dict": RAW, **beside})
    assert holds(filled, RAW)


def written(folder: Path, kind: str) -> Path:
    model, path = network().eval(), folder / f"{kind}.pt"
    if kind == "script":
        torch.jit.script(model).save(str(path))
    elif kind == "trace":
        torch.jit.save(torch.jit.trace(model, torch.zeros(1, 3, 3, 3)), str(path))
    elif kind == "exported":
        torch.export.save(torch.export.export(model, (torch.zeros(1, 3, 3, 3),)), path)
    elif kind == "arrays":
        with path.open("wb") as stream:
            np.savez(stream, **{n: t.numpy() for n, t in RAW.items()})
    else:
        path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("script", "a TorchScript archive"), ("trace", "a TorchScript archive"), ("exported", "torch.export wrote"),
        ("arrays", r"NumPy arrays \(.npz\)"), ("keras", "an HDF5 file"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_weights_is_called_what_it_is(kind: str, says: str, tmp_path: Path) -> None:
    path = written(tmp_path, kind)
    with pytest.raises(RecipeError, match=says) as caught:
        load_weights(network(), str(path), "--weights", "mine")
    assert "\n" not in str(caught.value)
    assert "damaged" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.filterwarnings("ignore")
def test_what_is_said_about_torchscript_works(tmp_path: Path) -> None:
    path = written(tmp_path, "script")
    torch.save(torch.jit.load(str(path)).state_dict(), tmp_path / "weights.pth")
    load_weights(network(), str(tmp_path / "weights.pth"), "--weights", "mine")
    torch.save(torch.export.load(written(tmp_path, "exported")).state_dict, tmp_path / "weights.pth")
    load_weights(network(), str(tmp_path / "weights.pth"), "--weights", "mine")
