"""Weights to start from: a file of the user's own or a public checkpoint, loaded strictly, with a report of what matched.

Key styles: torchvision and timm (the network's own names), whatever stands before them in MoCo, solo-learn, Lightly, Lightning, DDP or
edgekit (`module.encoder_q.`, `backbone.`), and ResNets that were cut into a `Sequential`, as Lightly's examples do (`backbone.4.0.…`).
Where a checkpoint holds the average of the weights over training (EMA) beside the weights themselves, the average is taken, as timm does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from edgekit.errors import RecipeError
from edgekit.models.checkpoints import StateDict, owner, read_state_dicts, some

# Where a checkpoint keeps its weights, the best known first, and what stands before an encoder's own names.
_CONTAINERS = ("state_dict", "model_state_dict", "model", "network", "net", "module", "backbone", "encoder")
_PREFIXES = {
    "module", "model", "backbone", "encoder", "encoder_q", "base_encoder", "online_encoder", "student", "network", "net",
    "resnet", "trunk", "state_dict", "_orig_mod", "online_network", "convnet", "f", "teacher", "ema", "ema_model", "model_ema",
    "averaged_model", "online_model", "student_backbone", "teacher_backbone",
}  # fmt: skip
# Words of a place in a file that holds an average of the weights.
_AVERAGED = re.compile(r"(^|_)(ema|averaged?|swa)(_|$)")
# Of DINO and its like, where the teacher is the student's average; or of a distillation.
_TEACHER, _STUDENT = "teacher", "student"
_ALIKE = 0.5  # cosine between weights: near 1 for an average of the same training, near 0 for another training
_COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel
_CLASSIFIERS = ("fc", "classifier", "head", "heads", "head_dist", "linear", "last_linear")
# Classifiers that help training alone: GoogLeNet's aux1, Inception's AuxLogits.
_AUXILIARY = re.compile(r"aux", re.IGNORECASE)
_UNIMPORTANT = "num_batches_tracked"  # files of old PyTorch have none, and no result depends on it
# A ResNet cut into a Sequential: its children by number, of torchvision's network and of Lightly's for CIFAR.
_CUT_RESNETS = (
    {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"},
    {"0": "conv1", "1": "bn1", "2": "layer1", "3": "layer2", "4": "layer3", "5": "layer4"},
)


@dataclass(frozen=True)
class LoadedWeights:
    """What became of a file of weights.

    Args:
        file: its path.
        sha256: of its bytes.
        tensors: how many filled the network, all of it.
        values: numbers in them.
        prefix: what stood before their names.
        unused: what the file holds beside them, by its first name, and how many tensors of each.
        key: which of the file's state dicts it was; empty for the file itself.
        averaged: whether they are an average over training.
        others: weights of the file that would have filled the network too.
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
            text += f"; the file's {some(f'`{o}`' for o in self.others)} would too (the option weights-key says which)"
        if self.unused:
            text += "; not used: " + ", ".join(f"{name} ({count})" for name, count in self.unused.items())
        return text


@dataclass(frozen=True)
class Match:
    """A state dict, or a part of it, held against a network.

    Attributes:
        state: the state dict.
        prefix: what stands before the names.
        names: the file's names below the prefix, and the network's for them.
        fits: tensors of the network that have a tensor of their shape.
        named: tensors of the network that have a tensor of their name.
    """

    state: StateDict
    prefix: str
    names: dict[str, str]
    fits: int
    named: int

    @property
    def path(self) -> list[str]:
        """The words that lead to the tensors."""
        return [word for key in self.state.key for word in key.split(".")] + self.prefix.split(".")[:-1]

    @property
    def place(self) -> str:
        """The key that chooses these weights."""
        return ".".join(self.path)

    @property
    def averaged(self) -> bool:
        """Whether the place says that the weights are an average over training."""
        return any(_AVERAGED.search(word.lower()) for word in self.path)

    def of(self, kind: str) -> bool:
        """Whether a word of the place begins with this one."""
        return any(word.startswith(kind) for word in self.path)

    def tensors(self) -> dict[str, Tensor]:
        """By the network's names."""
        return {new: self.state.tensors[old] for old, new in self.names.items()}


def load_weights(network: nn.Module, path: str, where: str, named: str = "", weights_key: str | None = None) -> LoadedWeights:
    """Fill a network with the weights of a file, in place.

    Args:
        network: a network, with or without classifier.
        path: safetensors, or a state dict (or a checkpoint that holds one) of `torch.save`.
        where: the recipe's key of the network, for messages (`pretrain.encoder`), or the command's option that named the file.
        named: what the user called the network on the command line; empty where the recipe names it.
        weights_key: which of the file's weights, see `read_state_dicts`; None takes those that fit, the average of them where there
            is one.

    Raises:
        RecipeError: the file is missing, damaged, would run code, or its tensors are not those of the network. The network is
            then as it was.
    """
    key, network_key = (where, named) if named else (f"{where}.weights", f"{where}.name")
    context = f"{key}: {path}"
    wanted = network.state_dict()
    match, averaged, others = best_match(read_state_dicts(path, key, weights_key), wanted)
    found, unused = _sorted_out(match, wanted)
    own = {name for name in found if name in wanted}
    if not own:
        raise RecipeError(
            f"{context}: none of its tensors has a name of this network: {some(found)} in the file, {some(wanted)} here",
            f"is {network_key} the network that the file was made from?",
        )
    _same_shapes(found, wanted, context, where, named)
    missing = [name for name in wanted if name not in own and not name.endswith(_UNIMPORTANT)]
    extra = [name for name in found if name not in wanted]
    if missing or extra:
        parts = [
            f"{len(names)} {what}: {some(names)}"
            for what, names in (("missing", missing), ("too many", extra))
            if names
        ]
        raise RecipeError(
            f"{context}: not the tensors of this network, {'; '.join(parts)}",
            f"is {network_key} the network that it was made from?",
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
        raise RecipeError(f"{context}: holds values that are no numbers, in {some(broken)}", "take another checkpoint")
    with torch.no_grad():
        for name in own:
            wanted[name].copy_(found[name])
    values = sum(found[name].numel() for name in own)
    return LoadedWeights(
        path, match.state.sha256, len(own), values, match.prefix, unused, ".".join(match.state.key), averaged,
        [other.place for other in others if other.place],
    )  # fmt: skip


def best_match(states: list[StateDict], wanted: Mapping[str, Tensor]) -> tuple[Match, bool, list[Match]]:
    """The weights of a file that fit a network best: most tensors of its names and shapes, then an average before what it averages.

    Args:
        states: of the file, at least one.
        wanted: the network's own tensors.

    Returns:
        The match, whether it is an average over training, and the other weights that fit as well.
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
    """Whether two sets of weights are of one training: those of two trainings are as good as orthogonal."""
    names = [n for n, t in first.items() if t.ndim > 1 and n in second and second[n].shape == t.shape]
    a, b = (torch.cat([torch.zeros(1), *(t[n].double().flatten() for n in names)]) for t in (first, second))
    return bool(nn.functional.cosine_similarity(a, b, dim=0) > _ALIKE)


def _matches(state: StateDict, wanted: Mapping[str, Tensor]) -> list[Match]:
    """A state dict below each prefix that it has, its names read in the way that fits best."""
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
    """The tensors of a match by the network's names; and what is left out, counted by name."""
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
    """Known words before names, the longest and the best known first: `module.encoder_q.`, `module.`, and nothing."""
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
    """Names of a ResNet in a Sequential as the ResNet itself has them."""

    def rename(name: str) -> str:
        first, dot, rest = name.partition(".")
        return children.get(first, first) + dot + re.sub(r"(^|\.)shortcut\.", r"\1downsample.", rest)

    return rename


def _same_shapes(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], context: str, where: str, named: str) -> None:
    """Refuse tensors of another shape, and say what it means where that is known."""
    other = [name for name in found if name in wanted and found[name].shape != wanted[name].shape]
    if not other:
        return
    listed = ", ".join(f"{n} {tuple(found[n].shape)} instead of {tuple(wanted[n].shape)}" for n in other[:3])
    message = f"{context}: {len(other)} of its tensors have another shape: {listed}" + (", …" if len(other) > 3 else "")
    hint = (
        f"is {named} the network that it was made from?"
        if named
        else f"is {where}.name, with its width, the network that it was made from?"
    )
    if other == ["conv1.weight"] and not named:
        theirs, ours = (int(t["conv1.weight"].shape[-1]) for t in (found, wanted))
        if theirs != ours:
            message = f"{context}: has a stem of {theirs}x{theirs} pixels, the network here one of {ours}x{ours}"
            imagenet = theirs == 7
            hint = (
                f"set {where}.stem to {'imagenet (data.image_size 32 or more)' if imagenet else 'cifar, or strided'}: "
                f"the file is of {'an ImageNet' if imagenet else 'a CIFAR'} ResNet"
            )
    elif any("pos_embed" in name or "pos_embedding" in name for name in other):
        size = "give the --size" if named else "set data.image_size (or patch_size) to what"
        hint = f"its positional embedding is for another number of patches: {size} it was trained with"
    raise RecipeError(message, hint)
