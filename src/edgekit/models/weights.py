"""Load initial weights from a user's file or a public checkpoint, strictly, with a report of what matched.

Supported names of tensors: those of torchvision and timm (the network's own names), the same with the prefixes of MoCo, solo-learn, Lightly,
Lightning, DDP or edgekit (`module.encoder_q.`, `backbone.`), and ResNets cut into a `Sequential`, as in Lightly's examples
(`backbone.4.0.…`). If a checkpoint also holds the average of the weights over training (EMA), the average is taken, as timm does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from edgekit.errors import RecipeError
from edgekit.models.checkpoints import StateDict, owner, read_state_dicts, some

# Keys of the weights in a checkpoint, the most common first; and prefixes of an encoder's own names.
_CONTAINERS = ("state_dict", "model_state_dict", "model", "network", "net", "module", "backbone", "encoder")
_PREFIXES = {
    "module", "model", "backbone", "encoder", "encoder_q", "base_encoder", "online_encoder", "student", "network", "net",
    "resnet", "trunk", "state_dict", "_orig_mod", "online_network", "convnet", "f", "teacher", "ema", "ema_model", "model_ema",
    "averaged_model", "online_model", "student_backbone", "teacher_backbone",
}  # fmt: skip
# Words in the place of averaged weights in a file.
_AVERAGED = re.compile(r"(^|_)(ema|averaged?|swa)(_|$)")
# DINO and similar methods, where the teacher is the student's average; or a distillation.
_TEACHER, _STUDENT = "teacher", "student"
_ALIKE = 0.5  # cosine between weights: near 1 for an average of the same training, near 0 for different trainings
_COUNTER = "n_averaged"  # a buffer of torch.optim.swa_utils.AveragedModel
_CLASSIFIERS = ("fc", "classifier", "head", "heads", "head_dist", "linear", "last_linear")
# Classifiers used only in training: GoogLeNet's aux1, Inception's AuxLogits.
_AUXILIARY = re.compile(r"aux", re.IGNORECASE)
_UNIMPORTANT = "num_batches_tracked"  # files of old PyTorch versions lack it, and no output depends on it
# A ResNet cut into a Sequential: its children by index, for torchvision's network and for Lightly's for CIFAR.
_CUT_RESNETS = (
    {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"},
    {"0": "conv1", "1": "bn1", "2": "layer1", "3": "layer2", "4": "layer3", "5": "layer4"},
)


@dataclass(frozen=True)
class LoadedWeights:
    """Report on weights that were loaded into a network.

    Args:
        file: path of the file.
        sha256: SHA-256 of its bytes.
        tensors: number of loaded tensors, which fill the whole network.
        values: number of values in them.
        prefix: prefix of their names in the file.
        unused: other content of the file, by its first name, and its number of tensors.
        key: which of the file's state dicts was loaded; empty for the file itself.
        averaged: whether they are an average over training.
        others: other weights in the file that also fit the network.
    """

    file: str
    sha256: str
    tensors: int
    values: int
    prefix: str
    unused: dict[str, int]
    key: str = ""
    averaged: bool = False
    others: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        of = f" of `{self.key}`" if self.key else ""
        under = f" under `{self.prefix}`" if self.prefix else ""
        text = f"{self.file}: {self.tensors} tensors ({self.values / 1e6:.2f} million values){of}{under} fill the whole network"
        if self.averaged:
            text += "; they are an average of the weights over training (EMA)"
        if self.others:
            text += f"; the file's {some(f'`{o}`' for o in self.others)} would fit too (choose with weights-key)"
        if self.unused:
            text += "; not used: " + ", ".join(f"{name} ({count})" for name, count in self.unused.items())
        return text


@dataclass(frozen=True)
class Match:
    """A state dict, or a part of it, compared with a network.

    Attributes:
        state: the state dict.
        prefix: the prefix of the names.
        names: the file's names with the prefix -> the network's names.
        fits: number of the network's tensors with a match in name and shape.
        named: number of the network's tensors with a match in name.
    """

    state: StateDict
    prefix: str
    names: dict[str, str]
    fits: int
    named: int

    @property
    def path(self) -> list[str]:
        """The path to the tensors, as words."""
        return [word for key in self.state.key for word in key.split(".")] + self.prefix.split(".")[:-1]

    @property
    def place(self) -> str:
        """The value of weights-key that chooses these weights."""
        return ".".join(self.path)

    @property
    def averaged(self) -> bool:
        """Whether the place names an average over training."""
        return any(_AVERAGED.search(word.lower()) for word in self.path)

    def of(self, kind: str) -> bool:
        """Whether a word of the place begins with this one."""
        return any(word.startswith(kind) for word in self.path)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by the network's names."""
        return {new: self.state.tensors[old] for old, new in self.names.items()}


# Changes tensors of a file (by the network's names) to fit a network: takes the network, the file's tensors and the network's own.
Adapt = Callable[[nn.Module, dict[str, Tensor], Mapping[str, Tensor]], dict[str, Tensor]]


def load_weights(
    network: nn.Module,
    path: str,
    where: str,
    named: str = "",
    weights_key: str | None = None,
    adapt: Adapt | None = None,
) -> LoadedWeights:
    """Load the weights of a file into a network, in place.

    Args:
        network: a network, with or without classifier.
        path: safetensors, or a state dict (or a checkpoint that holds one) of `torch.save`.
        where: the recipe's key of the network, for messages (`pretrain.encoder`), or the command's option for the file.
        named: the network's name on the command line; empty if the recipe names it.
        weights_key: which of the file's weights, see `read_state_dicts`; None: those that fit, preferably an average over
            training.
        adapt: changes tensors of other shapes (`edgekit.models.positions.interpolated`).

    Raises:
        RecipeError: the file is missing, damaged, would run code, or its tensors do not fit the network, which is then
            unchanged.
    """
    key, network_key = (where, named) if named else (f"{where}.weights", f"{where}.name")
    context = f"{key}: {path}"
    wanted = network.state_dict()
    match, averaged, others = best_match(read_state_dicts(path, key, weights_key), wanted)
    found, unused = _sorted_out(match, wanted)
    own = {name for name in found if name in wanted}
    if not own:
        raise RecipeError(
            f"{context}: none of its tensors has a name of this network: the file has {some(found)}, the network {some(wanted)}",
            f"check that {network_key} is the network that the file was made from",
        )
    if adapt is not None:
        found = adapt(network, found, wanted)
    _same_shapes(found, wanted, context, where, named)
    missing = [name for name in wanted if name not in own and not name.endswith(_UNIMPORTANT)]
    extra = [name for name in found if name not in wanted]
    if missing or extra:
        parts = [
            f"{len(names)} {what}: {some(names)}"
            for what, names in (("missing", missing), ("unexpected", extra))
            if names
        ]
        raise RecipeError(
            f"{context}: does not have the tensors of this network: {'; '.join(parts)}",
            f"check that {network_key} is the network that the file was made from",
        )
    unlike = [
        name for name in own if found[name].is_quantized or found[name].is_meta or found[name].layout != torch.strided
    ]
    if unlike:
        raise RecipeError(
            f"{context}: holds quantized, sparse or empty tensors where weights should be, in {some(unlike)}",
            "save the weights as plain floating-point tensors",
        )
    broken = [name for name in own if found[name].is_floating_point() and not found[name].isfinite().all()]
    if broken:
        raise RecipeError(f"{context}: holds NaN or infinite values, in {some(broken)}", "use another checkpoint")
    with torch.no_grad():
        for name in own:
            wanted[name].copy_(found[name])
    values = sum(found[name].numel() for name in own)
    return LoadedWeights(
        path, match.state.sha256, len(own), values, match.prefix, unused, ".".join(match.state.key), averaged,
        [other.place for other in others if other.place],
    )  # fmt: skip


def best_match(states: list[StateDict], wanted: Mapping[str, Tensor]) -> tuple[Match, bool, list[Match]]:
    """Find the weights of a file that fit a network best: most matching names and shapes; of equal ones, an average over training.

    Args:
        states: the file's state dicts, at least one.
        wanted: the network's own tensors.

    Returns:
        The match, whether it is an average over training, and the other weights that fit equally well.
    """
    matches = [match for state in states for match in _matches(state, wanted)]
    most = max((match.fits, match.named) for match in matches)
    best = sorted((m for m in matches if (m.fits, m.named) == most), key=_preference)
    teacher, student = (next((m for m in best if m.of(kind)), None) for kind in (_TEACHER, _STUDENT))
    first, averaged = best[0], best[0].averaged
    if teacher is not None and student is not None and first is teacher:
        # The teacher of DINO is the student's average over training; the teacher of a distillation is a network of its own.
        averaged = _alike(teacher.tensors(), student.tensors())
        first = teacher if averaged else student
    others = [m for m in best if m.names.keys() != first.names.keys() or m.state.key != first.state.key]
    return first, averaged, others if most[0] else []


def _preference(match: Match) -> tuple[int, int, str]:
    containers = [_CONTAINERS.index(word) for word in match.state.key[:1] if word in _CONTAINERS]
    if match.averaged:
        rank = 0
    elif match.of(_TEACHER) or match.of(_STUDENT):
        rank = 1 if match.of(_TEACHER) else 2
    elif containers:
        rank = 3 + containers[0]
    else:
        rank = 20 if not match.state.key else 21
    return rank, match.prefix.count("."), match.prefix


def _alike(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Whether two sets of weights are from the same training: weights of two trainings are almost orthogonal."""
    names = [n for n, t in first.items() if t.ndim > 1 and n in second and second[n].shape == t.shape]
    a, b = (torch.cat([torch.zeros(1), *(t[n].double().flatten() for n in names)]) for t in (first, second))
    return bool(nn.functional.cosine_similarity(a, b, dim=0) > _ALIKE)


def _matches(state: StateDict, wanted: Mapping[str, Tensor]) -> list[Match]:
    """Match a state dict below each of its prefixes, each with the renaming that fits best."""
    found = []
    counted = {name for name in wanted if not name.endswith(_UNIMPORTANT)}
    for prefix in _prefixes(state.tensors):
        best: Match | None = None
        for rename in (_as_it_is, *map(_cut, _CUT_RESNETS)):
            names = {name: rename(name.removeprefix(prefix)) for name in state.tensors if name.startswith(prefix)}
            known = [(old, new) for old, new in names.items() if new in counted]
            fits = sum(state.tensors[old].shape == wanted[new].shape for old, new in known)
            if best is None or (fits, len(known)) > (best.fits, best.named):
                best = Match(state, prefix, names, fits, len(known))
        assert best is not None
        found.append(best)
    return found


def _sorted_out(match: Match, wanted: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The tensors of a match by the network's names, and the unused ones, counted by name."""
    found, unused = {}, dict[str, int]()
    for name, tensor in match.state.tensors.items():
        new = match.names.get(name)
        first = new.partition(".")[0] if new is not None else ""
        if new is None or (new not in wanted and (first in {*_CLASSIFIERS, _COUNTER} or _AUXILIARY.match(first))):
            label = match.prefix + first if new is not None else owner(name)
            unused[label] = unused.get(label, 0) + 1
        else:
            found[new] = tensor
    return found, unused | match.state.beside


def _prefixes(names: Iterable[str]) -> list[str]:
    """The prefixes of names that consist of known words, the shortest first: none, `module.`, `module.encoder_q.`."""
    found = {""}
    for name in names:
        parts = name.split(".")
        for count in range(1, len(parts)):
            if parts[count - 1] not in _PREFIXES:
                break
            found.add(".".join(parts[:count]) + ".")
    return sorted(found, key=lambda prefix: (prefix.count("."), prefix))


def _as_it_is(name: str) -> str:
    return name


def _cut(children: dict[str, str]) -> Callable[[str], str]:
    """A function from names of a ResNet cut into a Sequential to the ResNet's own names."""

    def rename(name: str) -> str:
        first, dot, rest = name.partition(".")
        return children.get(first, first) + dot + re.sub(r"(^|\.)shortcut\.", r"\1downsample.", rest)

    return rename


def _same_shapes(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], context: str, where: str, named: str
) -> None:
    """Refuse tensors of another shape; explain the cause if it is known."""
    other = [name for name in found if name in wanted and found[name].shape != wanted[name].shape]
    if not other:
        return
    listed = ", ".join(f"{n} {tuple(found[n].shape)} instead of {tuple(wanted[n].shape)}" for n in other[:3])
    message = f"{context}: {len(other)} of its tensors have another shape: {listed}" + (", …" if len(other) > 3 else "")
    hint = (
        f"check that {named} is the network that the file was made from"
        if named
        else f"check that {where}.name, with its width, is the network that the file was made from"
    )
    if other == ["conv1.weight"] and not named:
        theirs, ours = (int(t["conv1.weight"].shape[-1]) for t in (found, wanted))
        if theirs != ours:
            message = f"{context}: has a stem of {theirs}x{theirs} pixels, but the network has one of {ours}x{ours}"
            imagenet = theirs == 7
            hint = (
                f"set {where}.stem to {'imagenet (data.image_size 32 or more)' if imagenet else 'cifar, or strided'}: "
                f"the file is of {'an ImageNet' if imagenet else 'a CIFAR'} ResNet"
            )
    elif any("pos_embed" in name or "pos_embedding" in name for name in other):
        size = "give the --size" if named else "set data.image_size (or patch_size) to the value"
        hint = f"its positional embedding is for another number of patches: {size} that it was trained with"
        hint += "" if named else f", or {where}.interpolate_positions to true"
    raise RecipeError(message, hint)
