"""Checkpoints: the state dicts in a file of weights. Code in a file is never run.

Files are safetensors or what `torch.save` writes (see `edgekit.models.weight_files`). A training script's checkpoint often
holds several state dicts: the weights, their average over training (EMA), the optimizer's state, a teacher.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from edgekit.errors import RecipeError, near
from edgekit.files import sha256
from edgekit.foreign import Unreadable
from edgekit.models.weight_files import Content, NotWeights, read_weights

_DEPTH = 6  # depth of nested mappings that are searched


@dataclass(frozen=True)
class StateDict:
    """A state dict in a file: tensors by name.

    Attributes:
        key: path in the file, as names of nested mappings: `("state_dict_ema",)`; empty for the file itself.
        tensors: tensors on the CPU, by name.
        beside: other content of the file, by its place, and its number of tensors.
        sha256: SHA-256 of the file.
    """

    key: tuple[str, ...]
    tensors: dict[str, Tensor]
    beside: dict[str, int]
    sha256: str = ""


def read_state_dicts(path: str, where: str, key: str | None = None) -> list[StateDict]:
    """Read the state dicts of a file, in the file's order.

    Args:
        path: safetensors, or what `torch.save` wrote.
        where: the recipe's key or the command's option for the file, for messages.
        key: which one: a place in the file (`state_dict_ema`, `ema.module`), or a prefix of the names of its tensors
            (`teacher.backbone`). None: all.

    Raises:
        RecipeError: the file is missing, damaged, not a file of weights, would run code, or holds no state dict (of that key).
    """
    context = f"{where}: {path}"
    content, digest = _load(Path(path).expanduser(), context)
    found = list(_state_dicts(content, ()))
    if not found:
        keys = some(map(str, content)) if isinstance(content, Mapping) and content else f"a {type(content).__name__}"
        raise RecipeError(
            f"{context}: holds no state dict; found {keys}",
            "accepted: tensors by name, at the top level or under state_dict, model_state_dict or model",
        )
    found = [StateDict(s.key, s.tensors, _beside(content, s.key), digest) for s in found]
    return found if key is None else [_chosen(found, key, context)]


def _chosen(found: list[StateDict], key: str, context: str) -> StateDict:
    """The state dict of a key: a place in the file, or a prefix of names."""
    key = key.rstrip(".")
    for state in found:
        place = ".".join(state.key)
        if place == key:
            return state
        # A prefix of names, with or without the place of the state dict before it.
        for words in dict.fromkeys((key.removeprefix(f"{place}."), key)):
            prefix = f"{words}."
            tensors = {name.removeprefix(prefix): t for name, t in state.tensors.items() if name.startswith(prefix)}
            if tensors:
                others = owners(name for name in state.tensors if not name.startswith(prefix))
                return StateDict((*state.key, words), tensors, others | state.beside, state.sha256)
    places = [".".join(state.key) for state in found if state.key]
    first = dict.fromkeys(owner for state in found for owner in owners(state.tensors))
    known = [*places, *first]
    raise RecipeError(
        f"{context}: holds no weights named {key}; found {some(known, 8)}", near(key, known) or "give one of these"
    )


def digest_of_weights(path: str, where: str) -> str:
    """Return the SHA-256 of a file of weights.

    Raises:
        RecipeError: it cannot be read.
    """
    file = Path(path).expanduser()
    if file.exists() and not file.is_file():  # reading a device may never end
        raise RecipeError(f"{where}: {path}: is not a file", "give the path of the file")
    try:
        return sha256(file)
    except OSError as error:
        raise RecipeError(f"{where}: {path}: cannot be read: {error.strerror}", "give the path of the file") from error


def _load(file: Path, context: str) -> Content:
    try:
        return read_weights(file)
    except NotWeights as error:
        raise RecipeError(f"{context}: {error.reason}", error.hint) from error
    except Unreadable as error:
        if error.missing:
            raise RecipeError(
                f"{context}: no such file", "give the path of a .safetensors, .pth or .pt file"
            ) from error
        if isinstance(error.__cause__, OSError) or error.__cause__ is None:
            raise RecipeError(
                f"{context}: cannot be read: {error.detail}", "give the path of a file of weights"
            ) from error
        raise RecipeError(
            f"{context}: damaged, or not a file of weights: {error.detail}", "download or copy it again"
        ) from error


def _state_dicts(content: Any, key: tuple[str, ...]) -> Iterator[StateDict]:
    """Find every mapping of names to tensors. An optimizer's state has numbers as keys and does not count."""
    if not isinstance(content, Mapping) or len(key) > _DEPTH:
        return
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield StateDict(key, tensors, {})
    for name, value in content.items():
        if isinstance(name, str):
            yield from _state_dicts(value, (*key, name))


def _beside(content: Any, key: tuple[str, ...]) -> dict[str, int]:
    """The content of a checkpoint beside one of its state dicts, and the number of tensors of each entry."""
    found: dict[str, int] = {}
    for depth in range(len(key) + 1):
        loose = []
        for name, value in content.items():
            if isinstance(value, Tensor):
                loose += [str(name)] if depth < len(key) else []
            elif (depth == len(key) or name != key[depth]) and (count := _count(value)):
                found[".".join([*key[:depth], str(name)])] = count
        found |= owners(loose)
        content = content[key[depth]] if depth < len(key) else None
    return found


def _count(content: Any, depth: int = 0) -> int:
    if isinstance(content, Tensor):
        return 1
    if isinstance(content, Mapping):
        content = list(content.values())
    if not isinstance(content, list | tuple) or depth > _DEPTH:
        return 0
    return sum(_count(value, depth + 1) for value in content)


def owners(names: Iterable[str]) -> dict[str, int]:
    """The owners of tensors (see `owner`), and their numbers of tensors."""
    found: dict[str, int] = {}
    for name in names:
        found[owner(name)] = found.get(owner(name), 0) + 1
    return found


def owner(name: str) -> str:
    """The owner of a tensor: its name up to the first specific word (not `module` or `model`)."""
    parts = name.split(".")
    first = next((i for i, part in enumerate(parts) if part not in {"module", "model"}), 0)
    return ".".join(parts[: first + 1])


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few of a list, for a message."""
    names = list(names)
    return ", ".join(names[:most]) + (f", … ({len(names)})" if len(names) > most else "")
