"""Weights to start from: a file of the user's own or a public checkpoint, loaded strictly, with a report of what matched.

Files are safetensors or what `torch.save` writes; the latter is read with `weights_only=True`, so that code in it never runs. Key
styles: torchvision and timm (the network's own names), whatever stands before them in MoCo, solo-learn, Lightly, Lightning, DDP or
edgekit (`module.encoder_q.`, `backbone.`), and ResNets that were cut into a `Sequential`, as Lightly's examples do (`backbone.4.0.…`).
"""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from edgekit.errors import RecipeError
from edgekit.files import sha256

# Where a checkpoint keeps its weights, and what stands before an encoder's own names.
_CONTAINERS = ("state_dict", "model_state_dict", "model", "network", "net", "module", "backbone", "encoder")
_PREFIXES = {
    "module", "model", "backbone", "encoder", "encoder_q", "base_encoder", "online_encoder", "student", "network", "net",
    "resnet", "trunk", "state_dict", "_orig_mod", "online_network", "convnet", "f",
}  # fmt: skip
_CLASSIFIERS = ("fc", "classifier", "head", "heads", "head_dist", "linear", "last_linear")
_UNIMPORTANT = "num_batches_tracked"  # files of old PyTorch have none, and no result depends on it
# A ResNet cut into a Sequential: its children by number, of torchvision's network and of Lightly's for CIFAR.
_CUT_RESNETS = (
    {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"},
    {"0": "conv1", "1": "bn1", "2": "layer1", "3": "layer2", "4": "layer3", "5": "layer4"},
)


@dataclass(frozen=True)
class Loaded:
    """What became of a file of weights.

    Args:
        file: its path.
        sha256: of its bytes.
        tensors: how many filled the network, all of it.
        values: numbers in them.
        prefix: what stood before their names.
        unused: what the file holds beside them, by its first name, and how many tensors of each.
    """

    file: str
    sha256: str
    tensors: int
    values: int
    prefix: str
    unused: dict[str, int]

    def __str__(self) -> str:
        under = f" under `{self.prefix}`" if self.prefix else ""
        text = f"{self.file}: {self.tensors} tensors ({self.values / 1e6:.2f} million values){under} fill the whole network"
        if self.unused:
            text += "; not used: " + ", ".join(f"{name} ({count})" for name, count in self.unused.items())
        return text


def load_weights(network: nn.Module, path: str, where: str, named: str = "") -> Loaded:
    """Fill a network with the weights of a file, in place.

    Args:
        network: a network, with or without classifier.
        path: safetensors, or a state dict (or a checkpoint that holds one) of `torch.save`.
        where: the recipe's key of the network, for messages (`pretrain.encoder`), or the command's option that named the file.
        named: what the user called the network on the command line; empty where the recipe names it.

    Raises:
        RecipeError: the file is missing, damaged, would run code, or its tensors are not those of the network. The network is
            then as it was.
    """
    key, network_key = (where, named) if named else (f"{where}.weights", f"{where}.name")
    here = f"{key}: {path}"
    wanted = network.state_dict()
    found, prefix, unused = _matched(read_tensors(path, key), wanted)
    own = {name for name in found if name in wanted}
    if not own:
        raise RecipeError(
            f"{here}: none of its tensors has a name of this network: {_some(found)} in the file, {_some(wanted)} here",
            f"is {network_key} the network that the file was made from?",
        )
    _same_shapes(found, wanted, here, where, named)
    missing = [name for name in wanted if name not in own and not name.endswith(_UNIMPORTANT)]
    extra = [name for name in found if name not in wanted]
    if missing or extra:
        parts = [
            f"{len(names)} {what}: {_some(names)}"
            for what, names in (("missing", missing), ("too many", extra))
            if names
        ]
        raise RecipeError(
            f"{here}: not the tensors of this network, {'; '.join(parts)}",
            f"is {network_key} the network that it was made from?",
        )
    broken = [name for name in own if found[name].is_floating_point() and not found[name].isfinite().all()]
    if broken:
        raise RecipeError(f"{here}: holds values that are no numbers, in {_some(broken)}", "take another checkpoint")
    with torch.no_grad():
        for name in own:
            wanted[name].copy_(found[name])
    values = sum(found[name].numel() for name in own)
    return Loaded(path, sha256(Path(path).expanduser()), len(own), values, prefix, unused)


def read_tensors(path: str, where: str) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU.

    Args:
        path: safetensors, or what `torch.save` wrote.
        where: the recipe's key, for messages.

    Raises:
        RecipeError: the file is missing, damaged, would run code, or holds no state dict.
    """
    file, here = Path(path).expanduser(), f"{where}: {path}"
    try:
        with open(file, "rb") as stream:
            start = stream.read(9)
        if start[8:9] == b"{":  # eight bytes of length, then JSON
            return safetensors.torch.load_file(file)
        with (
            torch.serialization.safe_globals([argparse.Namespace]),
            warnings.catch_warnings(),
        ):  # many have their `args`
            warnings.simplefilter("ignore")  # of pickles by other programs
            content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise RecipeError(f"{here}: no such file", "give the path of a .safetensors, .pth or .pt file") from error
    except OSError as error:
        raise RecipeError(
            f"{here}: cannot be read: {error.strerror or error}", "give the path of a file of weights"
        ) from error
    except pickle.UnpicklingError as error:
        raise RecipeError(
            f"{here}: {_not_weights(str(error))}", "save its weights alone: safetensors, or torch.save of a state dict"
        ) from error
    except (
        safetensors.SafetensorError,
        RuntimeError,
        ValueError,
        EOFError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        reason = " ".join(str(error).split())[:120]
        raise RecipeError(f"{here}: damaged, or no file of weights: {reason}", "download or copy it again") from error
    return _state_dict(content, here)


def _not_weights(reason: str) -> str:
    named = re.search(r"(?:GLOBAL|class|callable)\s+([\w.]+)", reason)
    if named:
        return f"holds more than weights ({named[1]}), which could run code and is never loaded"
    if "Unsupported operand 149" in reason:  # FRAME, of pickle's later protocols, which torch.save does not write
        return "a pickle of something else than weights, which could run code and is never loaded"
    return "damaged, or no file of weights"


def _state_dict(content: Any, here: str) -> dict[str, Tensor]:
    """The state dict in a checkpoint."""
    while isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        inner = [name for name in _CONTAINERS if isinstance(content.get(name), Mapping)]
        if inner:
            content = content[inner[0]]
        elif tensors:
            return tensors
        else:
            break
    keys = _some(map(str, content)) if isinstance(content, Mapping) and content else f"a {type(content).__name__}"
    raise RecipeError(
        f"{here}: holds no state dict, but {keys}", f"accepted: tensors by name, or under {', '.join(_CONTAINERS[:3])}"
    )


def _matched(tensors: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str, dict[str, int]]:
    """The tensors below the prefix that fits best, by the network's names; the prefix; what is left out, counted by name."""
    best: tuple[int, dict[str, str], str] = (-1, {}, "")
    for prefix in _prefixes(tensors):
        for rename in (_as_it_is, *map(_cut, _CUT_RESNETS)):
            names = {name: rename(name.removeprefix(prefix)) for name in tensors if name.startswith(prefix)}
            hits = sum(new in wanted for new in names.values())
            if hits > best[0]:
                best = hits, names, prefix
    _, names, prefix = best
    found, unused = {}, dict[str, int]()
    for name, tensor in tensors.items():
        new = names.get(name)
        first = new.partition(".")[0] if new is not None else ""
        if new is None or (new not in wanted and first in _CLASSIFIERS):
            label = prefix + first if new is not None else _owner(name)
            unused[label] = unused.get(label, 0) + 1
        else:
            found[new] = tensor
    return found, prefix, unused


def _prefixes(names: Iterable[str]) -> list[str]:
    """Known words before names, the longest and the best known first: `module.encoder_q.`, `module.`, and nothing."""
    found = {""}
    for name in names:
        parts = name.split(".")
        for count in range(1, len(parts)):
            if parts[count - 1] not in _PREFIXES:
                break
            found.add(".".join(parts[:count]) + ".")
    return sorted(found, key=lambda prefix: (prefix.count("."), prefix))


def _owner(name: str) -> str:
    """What a tensor outside the prefix belongs to: its name up to the first word that says something."""
    parts = name.split(".")
    said = next((i for i, part in enumerate(parts) if part not in {"module", "model"}), 0)
    return ".".join(parts[: said + 1])


def _as_it_is(name: str) -> str:
    return name


def _cut(children: dict[str, str]) -> Callable[[str], str]:
    """Names of a ResNet in a Sequential as the ResNet itself has them."""

    def rename(name: str) -> str:
        first, dot, rest = name.partition(".")
        return children.get(first, first) + dot + re.sub(r"(^|\.)shortcut\.", r"\1downsample.", rest)

    return rename


def _same_shapes(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], here: str, where: str, named: str) -> None:
    """Refuse tensors of another shape, and say what it means where that is known."""
    other = [name for name in found if name in wanted and found[name].shape != wanted[name].shape]
    if not other:
        return
    listed = ", ".join(f"{n} {tuple(found[n].shape)} instead of {tuple(wanted[n].shape)}" for n in other[:3])
    message = f"{here}: {len(other)} of its tensors have another shape: {listed}" + (", …" if len(other) > 3 else "")
    hint = (
        f"is {named} the network that it was made from?"
        if named
        else f"is {where}.name, with its width, the network that it was made from?"
    )
    if other == ["conv1.weight"] and not named:
        theirs, ours = (int(t["conv1.weight"].shape[-1]) for t in (found, wanted))
        if theirs != ours:
            message = f"{here}: has a stem of {theirs}x{theirs} pixels, the network here one of {ours}x{ours}"
            imagenet = theirs == 7
            hint = (
                f"set {where}.stem to {'imagenet (data.image_size 32 or more)' if imagenet else 'cifar, or strided'}: "
                f"the file is of {'an ImageNet' if imagenet else 'a CIFAR'} ResNet"
            )
    elif any("pos_embed" in name or "pos_embedding" in name for name in other):
        size = "give the --size" if named else "set data.image_size (or patch_size) to what"
        hint = f"its positional embedding is for another number of patches: {size} it was trained with"
    raise RecipeError(message, hint)


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f", … ({len(names)})" if len(names) > 3 else "")
