"""What a foreign network of torch answers, made into logits: one output of several, probabilities, one logit for two classes."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekit.errors import ExportError
from edgekit.export.importers.answers import sum_to_one
from edgekit.export.importers.determinism import determinism_fault
from edgekit.onnx_graph.build import slow_attention

Ending = Literal["logits", "softmax", "sigmoid"]
_DEEPEST = 4  # lists in dictionaries in lists that are looked into
_PROBES = 4  # random images that a network is looked at with
_SAME_ALONE = 0.02  # of the largest value: an image's answer beside others and alone; kernels differ by some 1e-5
_SMALLEST, _NEXT_TO_ONE = 1.17549435e-38, 1 - 2**-24  # positive float32 numbers whose logarithms are finite
# What autograd calls operations that leave values as they are.
_MOVES = re.compile(
    r"(UnsafeView|View|Reshape|Squeeze|Unsqueeze|Permute|Transpose|T|Clone|ToCopy|Alias|Clamp|Slice|Select)Backward"
)
_SIGMOIDS = re.compile(r"(Sigmoid|Hardsigmoid)Backward")


class Answer(nn.Module):
    """A network, its answer made into logits.

    Args:
        network: normalized float32 images (n, 3, s, s) -> anything that holds one tensor of scores (n, k), (n,) or (n, k, 1, 1).
        place: where in the answer that tensor is, step by step; empty where it is the answer.
        ending: what the scores are; `sigmoid` only with one score an image.
        classes: k.
    """

    def __init__(self, network: nn.Module, place: tuple[str | int, ...], ending: Ending, classes: int) -> None:
        super().__init__()
        self.network, self.place, self.ending, self.classes = network, place, ending, classes

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, k); of one score an image (n, 2), zero and the score: its sigmoid is the second's softmax."""
        scores: Tensor = _at(self.network(images), self.place).reshape(-1, self.classes).to(torch.float32)
        if self.ending == "softmax":
            return scores.clamp_min(_SMALLEST).log()
        if self.ending == "sigmoid":
            scores = scores.clamp(_SMALLEST, _NEXT_TO_ONE)
            scores = scores.log() - (1 - scores).log()
        return torch.cat([torch.zeros_like(scores), scores], 1) if self.classes == 1 else scores


def as_classifier(
    network: nn.Module, size: int, model: str, classes: int | None = None
) -> tuple[nn.Module, int, list[str]]:
    """A network that gives logits, whatever form its own answer has.

    Args:
        network: maps normalized float32 images (n, 3, size, size) to its answer.
        size: side of the images, in pixels.
        model: what the user called it, for messages.
        classes: how many names the classes have, which tells two outputs apart; None where nobody named them.

    Returns:
        The network in evaluation mode, itself where it gives logits (n, classes); how many classes; and notes.

    Raises:
        ExportError: it fails on such images, gives nothing that can be logits or more than one such output, judges each class on its
            own, or answers an image differently from call to call or beside other images.
    """
    try:
        network = network.cpu().float().eval()
    except (
        Exception
    ) as error:  # parameters that are not there yet (lazy ones, or of the device meta), or the user's own code
        raise ExportError(
            f"{model}: cannot be brought to the CPU: {reason(error)}", "give it its weights first"
        ) from error
    probes = torch.randn(_PROBES, 3, size, size, generator=torch.Generator().manual_seed(0))
    output = _run(network, probes, model, size)
    place, notes = _choice(output, model, classes)
    scores = _at(output, place)
    _refuse_nondeterministic(network, probes, place, model, size)
    count = scores[0].numel()
    ending = _ending(scores.reshape(_PROBES, count), _last_operation(network, probes, place))
    if ending == "sigmoid" and count > 1:
        raise ExportError(
            f"{model}: ends in a Sigmoid: each of its {count} classes is judged on its own (multi-label), and edgekit exports "
            "classifiers that choose one class",
            "give a network that ends in logits of one choice, or wrap it in a factory that does",
        )
    if ending != "logits":
        kind = nn.Softmax if ending == "softmax" else nn.Sigmoid
        if _without(network, kind, probes, place):
            notes.append(f"its last {kind.__name__} is left out: what is exported gives logits")
            ending = "logits"
        else:
            notes.append(f"it answers probabilities: their {'logarithms' if count > 1 else 'log-odds'} are the logits")
    elif bool((scores >= 0).all() & (scores <= 1).all() & (scores.max() > scores.min())):
        notes.append(
            "all its answers to random images lie between 0 and 1 and are taken for logits; if they are probabilities, wrap it in a "
            "factory that gives logits"
        )
    if count == 1:
        notes.append("its one logit z becomes two, 0 and z: the second class has the probability sigmoid(z)")
    if ending != "logits" or count == 1 or place or scores.ndim != 2:
        network = Answer(network, place, ending, count).eval()
    return network, max(count, 2), notes


def _run(network: nn.Module, probes: Tensor, model: str, size: int) -> Any:
    try:
        with torch.no_grad(), slow_attention():
            return network(probes)
    except Exception as error:  # the user's own code, or a network that such images do not fit
        raise ExportError(
            f"{model}: fails on images of {size} px: {reason(error)}", "give the --size that it takes"
        ) from error


def _refuse_nondeterministic(network: nn.Module, probes: Tensor, place: tuple[str | int, ...], model: str, size: int) -> None:
    """Refuse a network whose answer to an image depends on chance, or on the images beside it.

    Whether it does is asked again in float64 where float32 says so: rounding alone makes two answers of an ill-conditioned network.
    """
    fault = _determinism_fault(network, probes, place, model, size)
    if fault is not None:
        try:
            exact = copy.deepcopy(network).double()
            fault = _determinism_fault(exact, probes.double(), place, model, size)
        except Exception:  # a network that cannot be copied, or that casts inside: then float32 has said all there is
            pass
    if fault is not None:
        raise fault


def _determinism_fault(
    network: nn.Module, probes: Tensor, place: tuple[str | int, ...], model: str, size: int
) -> ExportError | None:
    def answer(images: Tensor) -> NDArray[Any]:
        scores: Tensor = _at(_run(network, images, model, size), place)
        return scores.double().numpy()

    return determinism_fault(model, answer, probes, probes[:1], _SAME_ALONE)


def _choice(output: Any, model: str, classes: int | None) -> tuple[tuple[str | int, ...], list[str]]:
    """Where in an answer the logits are, and a note where it holds more."""
    leaves = list(_leaves(output))
    able = {place: t for place, t in leaves if t.is_floating_point() and _looks_like_scores(t)}
    chosen = [p for p in able if p and p[-1] == "logits"] or list(able)
    if len(chosen) > 1:
        chosen = [p for p in chosen if able[p].ndim > 1] or chosen
    if len(chosen) > 1 and classes is not None:
        chosen = [p for p in chosen if able[p][0].numel() == classes] or chosen
    if len(chosen) == 1:
        note = f"of its outputs {_listed(leaves)} it is {_called(chosen[0])} that is exported"
        return chosen[0], [note] if len(leaves) > 1 else []
    if not leaves:
        what = f"a {type(output).__name__}"
    else:
        what = str(tuple(output.shape)) if isinstance(output, Tensor) else _listed(leaves)
    wanted = f"logits ({_PROBES}, {'classes' if classes is None else classes})"
    raise ExportError(
        f"{model}: gives {what} for {_PROBES} images, not {wanted}"
        + (" in one output alone" if len(chosen) > 1 else ""),
        "wrap it in a factory that gives them",
    )


def _looks_like_scores(tensor: Tensor) -> bool:
    return tensor.ndim >= 1 and tensor.numel() > 0 and len(tensor) == _PROBES and set(tensor.shape[2:]) <= {1}


def _leaves(output: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Tensor]]:
    """The tensors in an answer and where they are."""
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
    """What scores are: by their values, since rows that sum to 1 by chance are not seen, and a sigmoid by what made them."""
    if sum_to_one(scores.float().numpy()):
        return "softmax"
    return "sigmoid" if _SIGMOIDS.match(operation) else "logits"


def _last_operation(network: nn.Module, probes: Tensor, place: tuple[str | int, ...]) -> str:
    """What autograd calls the last operation that changed values; empty where it cannot tell."""
    try:
        with torch.enable_grad(), slow_attention():
            step = _at(network(probes.clone().requires_grad_(True) * 1), place).grad_fn
    except Exception:  # of a network that has no gradient
        return ""
    while step is not None and _MOVES.match(step.name()) and step.next_functions:
        step = step.next_functions[0][0]
    return "" if step is None else str(step.name())


def _without(network: nn.Module, kind: type[nn.Module], probes: Tensor, place: tuple[str | int, ...]) -> bool:
    """Take a network's last Softmax or Sigmoid out, in place, where it is a module and what is left gives the logits."""
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


def reason(error: BaseException) -> str:
    """What an exception of somebody else's code says, in a line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
