"""Checkpoints: a file of weights, as the state dicts that it holds. Code in a file never runs.

Files are safetensors or what `torch.save` writes; the latter is read with `weights_only=True`. A training script's checkpoint often
holds several state dicts: the weights, their average over training (EMA), the optimizer's state, a teacher.
"""

from __future__ import annotations

import argparse
import pathlib
import pickle
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from edgekit.errors import RecipeError, near
from edgekit.models.foreign_files import recognized

_DEPTH = 6  # mappings in mappings that are looked into
_REBUILT: dict[str, Any] = {"scalar": np.float64(0).__reduce__()[0], "_reconstruct": np.zeros(0).__reduce__()[0]}
# What training scripts put beside their weights, which holds data alone: options, the best accuracy as a NumPy scalar, paths.
# NumPy 2 moved two of its functions, and files keep the name of the version that wrote them.
_HARMLESS: list[Any] = [
    argparse.Namespace, pathlib.PurePosixPath, pathlib.PosixPath, np.ndarray, np.dtype,
    *((rebuild, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core") for name, rebuild in _REBUILT.items()),
    *{type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")},
]  # fmt: skip


@dataclass(frozen=True)
class StateDict:
    """Tensors by name, in a file.

    Attributes:
        key: where in the file, by the names of the mappings on the way: `("state_dict_ema",)`; empty for the file itself.
        tensors: on the CPU, by name.
        beside: what else the file holds, by its place, and how many tensors of each.
    """

    key: tuple[str, ...]
    tensors: dict[str, Tensor]
    beside: dict[str, int]


def read_state_dicts(path: str, where: str, key: str | None = None) -> list[StateDict]:
    """The state dicts of a file, in the file's order.

    Args:
        path: safetensors, or what `torch.save` wrote.
        where: the recipe's key or the command's option that named the file, for messages.
        key: which one: a place in the file (`state_dict_ema`, `ema.module`), or what stands before the names of its tensors
            (`teacher.backbone`). None gives all.

    Raises:
        RecipeError: the file is missing, damaged, no file of weights, would run code, or holds no state dict, or none of that key.
    """
    here = f"{where}: {path}"
    content = _load(Path(path).expanduser(), here)
    found = list(_state_dicts(content, ()))
    if not found:
        keys = some(map(str, content)) if isinstance(content, Mapping) and content else f"a {type(content).__name__}"
        raise RecipeError(
            f"{here}: holds no state dict, but {keys}",
            "accepted: tensors by name, or under state_dict, model_state_dict, model",
        )
    found = [StateDict(s.key, s.tensors, _beside(content, s.key)) for s in found]
    return found if key is None else [_chosen(found, key, here)]


def _chosen(found: list[StateDict], key: str, here: str) -> StateDict:
    """The state dict of a key: a place in the file, or what stands before names."""
    key = key.rstrip(".")
    for state in found:
        place = ".".join(state.key)
        if place == key:
            return state
        # What stands before names, with or without the place of the state dict before it.
        for words in dict.fromkeys((key.removeprefix(f"{place}."), key)):
            prefix = f"{words}."
            tensors = {name.removeprefix(prefix): t for name, t in state.tensors.items() if name.startswith(prefix)}
            if tensors:
                left = owners(name for name in state.tensors if not name.startswith(prefix))
                return StateDict((*state.key, words), tensors, left | state.beside)
    places = [".".join(state.key) for state in found if state.key]
    first = dict.fromkeys(owner for state in found for owner in owners(state.tensors))
    known = [*places, *first]
    raise RecipeError(
        f"{here}: holds no weights called {key}, but {some(known, 8)}", near(key, known) or "give one of these"
    )


def _load(file: Path, here: str) -> Any:
    try:
        with open(file, "rb") as stream:
            start = stream.read(9)
        if start[8:9] == b"{":  # eight bytes of length, then JSON
            return safetensors.torch.load_file(file)
        if other := recognized(file):
            raise RecipeError(f"{here}: is {other[0]}", other[1])
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles by other programs
            return torch.load(file, map_location="cpu", weights_only=True)
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
    except RecipeError:
        raise
    except Exception as error:  # of a damaged file: whatever PyTorch's unpickler trips over
        reason = " ".join(str(error).split())[:120]
        raise RecipeError(f"{here}: damaged, or no file of weights: {reason}", "download or copy it again") from error


def _not_weights(reason: str) -> str:
    named = re.search(r"(?:GLOBAL|class|callable)\s+([\w.]+)", reason)
    if named:
        return f"holds more than weights ({named[1]}), which could run code and is never loaded"
    if "Unsupported operand 149" in reason:  # FRAME, of pickle's later protocols, which torch.save does not write
        return "a pickle of something else than weights, which could run code and is never loaded"
    return "damaged, or no file of weights"


def _state_dicts(content: Any, key: tuple[str, ...]) -> Iterator[StateDict]:
    """Every mapping of names to tensors; an optimizer's state goes by numbers and is none."""
    if not isinstance(content, Mapping) or len(key) > _DEPTH:
        return
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield StateDict(key, tensors, {})
    for name, value in content.items():
        if isinstance(name, str):
            yield from _state_dicts(value, (*key, name))


def _beside(content: Any, key: tuple[str, ...]) -> dict[str, int]:
    """What lies in a checkpoint beside one of its state dicts, and how many tensors each holds."""
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
    """What tensors belong to, and how many each has."""
    found: dict[str, int] = {}
    for name in names:
        found[owner(name)] = found.get(owner(name), 0) + 1
    return found


def owner(name: str) -> str:
    """What a tensor belongs to: its name up to the first word that says something."""
    parts = name.split(".")
    said = next((i for i, part in enumerate(parts) if part not in {"module", "model"}), 0)
    return ".".join(parts[: said + 1])


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few of a list, for a message."""
    names = list(names)
    return ", ".join(names[:most]) + (f", … ({len(names)})" if len(names) > most else "")
