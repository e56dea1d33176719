"""Turn the output of a foreign torch network into logits: one of several outputs, probabilities, or one logit for two classes."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekit.errors import ExportError, typed_reason_of
from edgekit.export.importers.answers import WITHOUT_SIGMOID, single_label, sum_to_one
from edgekit.export.importers.determinism import determinism_fault
from edgekit.onnx_graph.build import slow_attention
from edgekit.sizes import ImageSize, SizeLike

Ending = Literal["logits", "softmax", "sigmoid"]
_DEEPEST = 4  # depth of nested lists and dictionaries that are searched
_PROBES = 4  # random images that a network is tested with
_SAME_ALONE = (
    0.02  # of the largest value: tolerance between an image in a batch and alone; kernels differ by about 1e-5
)
_SMALLEST, _NEXT_TO_ONE = 1.17549435e-38, 1 - 2**-24  # float32 numbers in (0, 1) whose logarithms are finite
# autograd's names of operations that do not change values.
_MOVES = re.compile(
    r"(UnsafeView|View|Reshape|Squeeze|Unsqueeze|Permute|Transpose|T|Clone|ToCopy|Alias|Clamp|Slice|Select)Backward"
)
_SIGMOIDS = re.compile(r"(Sigmoid|Hardsigmoid)Backward")


class ChosenOutput(nn.Module):
    """A network whose output is converted to logits.

    Args:
        network: normalized float32 images (n, 3, h, w) -> anything that holds one tensor of scores (n, k), (n,) or (n, k, 1, 1).
        place: path to that tensor in the output, step by step; empty if it is the output.
        ending: the kind of the scores; `sigmoid` only with one score per image.
        classes: k.
    """

    def __init__(self, network: nn.Module, place: tuple[str | int, ...], ending: Ending, classes: int) -> None:
        super().__init__()
        self.network, self.place, self.ending, self.classes = network, place, ending, classes

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, k); for one score z per image (n, 2): 0 and z, since sigmoid(z) is the softmax of the second."""
        scores: Tensor = _at(self.network(images), self.place).reshape(-1, self.classes).to(torch.float32)
        if self.ending == "softmax":
            return scores.clamp_min(_SMALLEST).log()
        if self.ending == "sigmoid":
            scores = scores.clamp(_SMALLEST, _NEXT_TO_ONE)
            scores = scores.log() - (1 - scores).log()
        return torch.cat([torch.zeros_like(scores), scores], 1) if self.classes == 1 else scores


def as_classifier(
    network: nn.Module, size: SizeLike, model: str, classes: int | None = None, several: bool = False
) -> tuple[nn.Module, int, list[str]]:
    """Return a network that gives logits, whatever the form of its output.

    Args:
        network: maps normalized float32 images (n, 3, h, w) to its output.
        size: of the images, in pixels.
        model: the user's name for it, for messages.
        classes: number of named classes, which helps to choose between outputs; None: unknown.
        several: whether an image may have any number of classes, which no Softmax can say.

    Returns:
        The network in evaluation mode (itself if it already gives logits (n, classes)), the number of classes, and notes.

    Raises:
        ExportError: the network fails on such images, has no output or several outputs that can be logits, is a multi-label network,
            or its output for an image varies between calls or with the other images of the batch.
    """
    try:
        network = network.cpu().float().eval()
    except Exception as error:  # parameters without values (lazy, or on the meta device), or the user's own code
        raise ExportError(
            f"{model}: cannot be moved to the CPU: {typed_reason_of(error)}", "load its weights first"
        ) from error
    size = ImageSize.of(size)
    probes = torch.randn(_PROBES, 3, *size, generator=torch.Generator().manual_seed(0))
    output = _run(network, probes, model, size)
    place, notes = _choice(output, model, classes)
    scores = _at(output, place)
    _refuse_nondeterministic(network, probes, place, model, size)
    count = scores[0].numel()
    ending = _ending(scores.reshape(_PROBES, count), _last_operation(network, probes, place))
    if ending == "sigmoid" and count > 1:
        raise ExportError(
            f"{model}: ends in a Sigmoid over {count} classes, so it is a multi-label network, whose classes do not exclude each other",
            WITHOUT_SIGMOID,
        )
    if ending == "softmax" and several:
        raise single_label(model)
    if ending != "logits":
        kind = nn.Softmax if ending == "softmax" else nn.Sigmoid
        if _without(network, kind, probes, place):
            notes.append(f"its last {kind.__name__} is left out: the exported network gives logits")
            ending = "logits"
        else:
            notes.append(f"it gives probabilities: their {'logarithms' if count > 1 else 'log-odds'} are the logits")
    elif bool((scores >= 0).all() & (scores <= 1).all() & (scores.max() > scores.min())):
        notes.append(
            "all its outputs for random images are between 0 and 1 and are taken as logits; if they are probabilities, wrap it in a "
            "factory that returns logits"
        )
    if count == 1:
        notes.append("its single logit z becomes two, 0 and z: the second class has the probability sigmoid(z)")
    if ending != "logits" or count == 1 or place or scores.ndim != 2:
        network = ChosenOutput(network, place, ending, count).eval()
    return network, max(count, 2), notes


def _run(network: nn.Module, probes: Tensor, model: str, size: ImageSize) -> Any:
    try:
        with torch.no_grad(), slow_attention():
            return network(probes)
    except Exception as error:  # the user's own code, or an image size that the network does not take
        raise ExportError(
            f"{model}: fails on images of {size} px: {typed_reason_of(error)}",
            "give the image size that it takes: --size",
        ) from error


def _refuse_nondeterministic(
    network: nn.Module, probes: Tensor, place: tuple[str | int, ...], model: str, size: ImageSize
) -> None:
    """Refuse a network whose output for an image is random or depends on the other images of the batch.

    A failed check in float32 is repeated in float64: rounding alone can change the output of an ill-conditioned network.
    """
    fault = _determinism_fault(network, probes, place, model, size)
    if fault is not None:
        try:
            exact = copy.deepcopy(network).double()
            fault = _determinism_fault(exact, probes.double(), place, model, size)
        except Exception:  # the network cannot be copied or casts inside: the check in float32 stands
            pass
    if fault is not None:
        raise fault


def _determinism_fault(
    network: nn.Module, probes: Tensor, place: tuple[str | int, ...], model: str, size: ImageSize
) -> ExportError | None:
    def answer(images: Tensor) -> NDArray[Any]:
        scores: Tensor = _at(_run(network, images, model, size), place)
        return scores.double().numpy()

    return determinism_fault(model, answer, probes, probes[:1], _SAME_ALONE)


def _choice(output: Any, model: str, classes: int | None) -> tuple[tuple[str | int, ...], list[str]]:
    """The path to the logits in an output, and a note if there are other outputs."""
    leaves = list(_leaves(output))
    able = {place: t for place, t in leaves if t.is_floating_point() and _looks_like_scores(t)}
    chosen = [p for p in able if p and p[-1] == "logits"] or list(able)
    if len(chosen) > 1:
        chosen = [p for p in chosen if able[p].ndim > 1] or chosen
    if len(chosen) > 1 and classes is not None:
        chosen = [p for p in chosen if able[p][0].numel() == classes] or chosen
    if len(chosen) == 1:
        note = f"its output {_called(chosen[0])} is exported, out of {_listed(leaves)}"
        return chosen[0], [note] if len(leaves) > 1 else []
    if not leaves:
        what = f"a {type(output).__name__}"
    else:
        what = str(tuple(output.shape)) if isinstance(output, Tensor) else _listed(leaves)
    wanted = f"logits ({_PROBES}, {'classes' if classes is None else classes})"
    raise ExportError(
        f"{model}: gives {what} for {_PROBES} images, not {wanted}"
        + (" in only one output" if len(chosen) > 1 else ""),
        "wrap it in a factory that returns the logits",
    )


def _looks_like_scores(tensor: Tensor) -> bool:
    return tensor.ndim >= 1 and tensor.numel() > 0 and len(tensor) == _PROBES and set(tensor.shape[2:]) <= {1}


def _leaves(output: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Tensor]]:
    """The tensors in an output, each with its path."""
    if isinstance(output, Tensor):
        yield place, output
        return
    for key, value in _parts(output) if len(place) < _DEEPEST else []:
        yield from _leaves(value, (*place, key))


def _parts(output: Any) -> list[tuple[str | int, Any]]:
    if isinstance(output, Mapping):
        return [(key, value) for key, value in output.items() if isinstance(key, str | int)]
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return list(zip(output._fields, output, strict=True))
    if isinstance(output, tuple | list):
        return list(enumerate(output))
    if dataclasses.is_dataclass(output):
        return [(f.name, getattr(output, f.name)) for f in dataclasses.fields(output)]
    return list(vars(output).items()) if hasattr(output, "__dict__") else []


def _at(output: Any, place: tuple[str | int, ...]) -> Any:
    for step in place:
        output = dict(_parts(output))[step]
    return output


def _called(place: tuple[str | int, ...]) -> str:
    return ".".join(map(str, place))


def _listed(leaves: list[tuple[tuple[str | int, ...], Tensor]]) -> str:
    listed = [f"{_called(place)} {tuple(t.shape)}".strip() for place, t in leaves[:4]]
    return ", ".join(listed) + (f", … ({len(leaves)})" if len(leaves) > 4 else "")


def _ending(scores: Tensor, operation: str) -> Ending:
    """The kind of scores: softmax by their values (rows do not sum to 1 by chance), sigmoid by the last operation."""
    if sum_to_one(scores.float().numpy()):
        return "softmax"
    return "sigmoid" if _SIGMOIDS.match(operation) else "logits"


def _last_operation(network: nn.Module, probes: Tensor, place: tuple[str | int, ...]) -> str:
    """autograd's name of the last operation that changed values; empty if unknown."""
    try:
        with torch.enable_grad(), slow_attention():
            step = _at(network(probes.clone().requires_grad_(True) * 1), place).grad_fn
    except Exception:  # the network has no gradient
        return ""
    while step is not None and _MOVES.match(step.name()) and step.next_functions:
        step = step.next_functions[0][0]
    return "" if step is None else str(step.name())


def _without(network: nn.Module, kind: type[nn.Module], probes: Tensor, place: tuple[str | int, ...]) -> bool:
    """Remove a network's last Softmax or Sigmoid in place, if it is a module and the rest gives the logits; return whether it was removed."""
    with torch.no_grad(), slow_attention():
        expected = _at(network(probes), place)
        candidates = [(p, n, c) for p in network.modules() for n, c in p.named_children() if type(c) is kind]
        for parent, name, last in candidates:
            setattr(parent, name, nn.Identity())
            scores = _at(network(probes), place).reshape(_PROBES, -1)
            again = scores.softmax(1) if kind is nn.Softmax else scores.sigmoid()
            if torch.allclose(again.reshape(expected.shape), expected, atol=1e-5):
                return True
            setattr(parent, name, last)
    return False
