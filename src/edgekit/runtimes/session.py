"""What every runtime's session looks like, and the checks that they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgekit import tasks
from edgekit.errors import BundleError, DataError, EdgekitError, near, one_line
from edgekit.tasks import Task

# The setting of what a runtime computes with, of every runtime: ONNX Runtime calls it an execution provider, OpenVINO a device. The words
# that it takes are in `edgekit.targets`.
PROVIDER = "provider"
MOST_BATCH = 4096  # images that a graph may fix: whoever has fewer fills the batch up, which takes their memory


class Session(Protocol):
    """A model that is loaded into a runtime and ready to run.

    Attributes:
        runtime: the runtime's name, as in a bundle's variant.
        version: the runtime's own version.
        settings: what the runtime was told and what it answered: provider or device, inference precision, threads, …
        outputs: the names of the graph's outputs, those that its task requires among them.
        batch: the batch size that the graph fixes; None where its batch axis is free.
    """

    runtime: str
    version: str
    settings: dict[str, str]
    outputs: list[str]
    batch: int | None

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run a batch for the main output of the model's task (see `edgekit.tasks`).

        Args:
            images: uint8 pixels of shape (n, H, W, 3) with n >= 1 (n = `batch` where the graph fixes it) and the model's H and
                W; any memory layout, read-only too.

        Returns:
            That output, float32, in memory of its own: of a classification the logits (n, classes).

        Raises:
            DataError: the batch is not of that dtype or shape.
        """
        ...

    def run_all(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Every output of the graph, float32 with n rows, by its name.

        Takes and raises what `run` does.
        """
        ...

    def close(self) -> None:
        """Release the model's memory; the session cannot run afterwards."""
        ...


class ProfiledNode(NamedTuple):
    """The time that one node of the graph, as the runtime executes it, took over all runs of a profile."""

    name: str
    operator: str
    calls: int
    nanoseconds: int


class StageTimes(NamedTuple):
    """One run on an accelerator, in nanoseconds: the images to it, the work itself until it is finished, the outputs back."""

    host_to_device: int
    compute: int
    device_to_host: int


@runtime_checkable
class Profiled(Protocol):
    """A session that can tell where the time goes."""

    def profile(self, images: NDArray[np.uint8], runs: int, warmup: int) -> list[ProfiledNode]:
        """The time of every node over `runs` runs of a batch after `warmup` others, in the order of execution."""
        ...


@runtime_checkable
class Staged(Protocol):
    """A session whose transfers can be timed apart from its work."""

    def stages(self, images: NDArray[np.uint8]) -> StageTimes | None:
        """One run, timed stage by stage; None where there is nothing to transfer."""
        ...


@runtime_checkable
class Sharing(Protocol):
    """A session that makes graphs of their own for batch sizes, and one with a free batch axis for all others."""

    def share_graph(self) -> None:
        """Give no further batch size a graph of its own: those that come share the one with a free axis."""
        ...


def share_graph(session: Session) -> None:
    """See `Sharing.share_graph`; nothing where a session has one graph for all sizes anyway."""
    if isinstance(session, Sharing):
        session.share_graph()


def fold_layers(executions: Sequence[tuple[str, str, int]], runs: int, warmup: int) -> list[ProfiledNode]:
    """Add up the executions (name, operator, nanoseconds) of each node over the runs, without the first `warmup` of them.

    A node that is executed several times a run counts each time.
    """
    found: dict[tuple[str, str], list[int]] = {}
    for name, operator, nanoseconds in executions:
        found.setdefault((name, operator), []).append(nanoseconds)
    layers = []
    for (name, operator), times in found.items():
        kept = times[len(times) * warmup // runs :]
        layers.append(ProfiledNode(name, operator, len(kept), sum(kept)))
    return layers


class Input(NamedTuple):
    """The one input of a graph: its name, (H, W, 3), and the batch size where the graph fixes one."""

    name: str
    shape: tuple[int, int, int]
    batch: int | None


def check_graph(
    model: Path,
    inputs: Sequence[tuple[str, str, Sequence[int | None]]],
    outputs: Sequence[str],
    task: Task | None = None,
) -> Input:
    """A graph's one input, after checking that the graph is one of edgekit's.

    Args:
        model: the file, for the message.
        inputs: name, dtype (NumPy's name) and shape of every input; None is a free axis.
        outputs: the names of the outputs.
        task: whose outputs these must be; None: the usual one, classification.

    Raises:
        BundleError: the graph does not take uint8 (n, H, W, 3) images, fixes n at 0 or over 4,096, or lacks an output of the task.
    """
    hint = "export the model with `edgekit export`"
    if len(inputs) != 1:
        raise BundleError(f"{model}: the graph takes {len(inputs)} inputs, not one batch of images", hint)
    name, dtype, shape = inputs[0]
    if dtype != "uint8" or len(shape) != 4 or shape[3] != 3:
        listed = ", ".join("free" if side is None else str(side) for side in shape)
        raise BundleError(f"{model}: the graph takes {dtype} ({listed}), not uint8 images (n, H, W, 3)", hint)
    if shape[1] is None or shape[2] is None:
        raise BundleError(f"{model}: the graph does not fix the image size", hint)
    if shape[0] is not None and not 0 < shape[0] <= MOST_BATCH:
        raise BundleError(
            f"{model}: the graph takes {shape[0]} images a run, more or fewer than 1 to {MOST_BATCH}", hint
        )
    if missing := [name for name in (task or tasks.find(tasks.DEFAULT)).required if name not in outputs]:
        raise BundleError(f"{model}: the graph has no output named {missing[0]}, only {', '.join(outputs)}", hint)
    return Input(name, (shape[1], shape[2], 3), shape[0])


def check_images(images: object, shape: tuple[int, int, int], batch: int | None) -> None:
    """Refuse what a graph does not take; `Session.run` itself has this test inline, since a call would cost it.

    Raises:
        DataError: not a batch of uint8 images of that shape, an empty one, or not as many as the graph fixes.
    """
    if (
        not isinstance(images, np.ndarray)
        or images.dtype != np.uint8
        or images.shape[1:] != shape
        or len(images) != (batch or len(images) or 1)
    ):
        raise wrong_images(images, shape, batch)


def wrong_images(images: object, shape: tuple[int, int, int], batch: int | None) -> DataError:
    """The error for a batch that a session refuses; made only after the cheap test in `Session.run` failed."""
    hint = "prepare images with the bundle's preprocessing and stack them: np.stack([preprocessing(image)])"
    want = f"uint8 images of shape ({batch or 'n'}, {shape[0]}, {shape[1]}, 3)"
    if not isinstance(images, np.ndarray):
        return DataError(f"the model takes {want}, got {type(images).__name__}", hint)
    if images.dtype == np.uint8 and images.shape == (0, *shape):
        return DataError("the batch holds no image", hint)
    if images.dtype == np.uint8 and images.shape == shape:
        hint = "add the batch axis: image[None]"
    elif images.dtype == np.uint8 and images.shape[1:] == shape:
        hint = f"the graph takes exactly {batch} images a run: fill the batch up (`run_in_batches` does), or export with a free batch"
    got = ", ".join(str(side) for side in images.shape)
    return DataError(f"the model takes {want}, got {images.dtype} of shape ({got})", hint)


def check_settings(runtime: str, settings: Mapping[str, str], known: Sequence[str]) -> None:
    """Refuse settings that a runtime's session does not know, since ignoring one would run something else than was verified.

    Raises:
        BundleError: a setting is unknown.
    """
    for key in settings:
        if key not in known:
            raise BundleError(
                f"{runtime}: unknown setting {key}", near(key, known) or f"it takes {', '.join(known)}; update edgekit"
            )


def run_required(session: Session, images: NDArray[np.uint8], task: Task) -> dict[str, NDArray[np.float32]]:
    """The outputs that a task requires, of one batch: by `run` where that gives them all, since others would be copied for nothing."""
    return session.run_all(images) if task.others else {task.main: session.run(images)}


def run_in_batches(
    session: Session,
    images: NDArray[np.uint8],
    batch: int,
    *,
    only: str = "",
    advance: Callable[[int], None] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """The outputs for any number of images, `batch` images a run, or as many as the graph fixes.

    Where the graph fixes the batch size, the last batch is filled up with its own images again; what they give is dropped.

    Args:
        session: a loaded model.
        images: uint8 (n, H, W, 3) with n >= 1.
        batch: images a run where the graph leaves it free.
        only: the task's main output, to leave the others out: for many images they take memory. Empty: all of them.
        advance: called after each run with the number of images.

    Returns:
        By output name, float32 of n rows.

    Raises:
        DataError: see `Session.run`.
        BundleError: the runtime fails, for instance because a graph that it has loaded cannot be computed.
    """
    size = session.batch or batch
    parts: list[dict[str, NDArray[np.float32]]] = []
    for start in range(0, max(1, len(images)), size):
        part = np.ascontiguousarray(images[start : start + size])
        count = len(part)
        if session.batch and 0 < count < size:
            part = np.resize(part, (size, *part.shape[1:]))
        try:
            outputs = {only: session.run(part)} if only else session.run_all(part)
        except (EdgekitError, AttributeError, TypeError):  # a mistake of the caller's, for instance a closed session
            raise
        except Exception as error:  # of a type of the runtime's own
            raise BundleError(
                f"{session.runtime} cannot run the model with {len(part)} images: {one_line(str(error), 300) or type(error).__name__}",
                "take a smaller batch, or export the bundle again",
            ) from error
        parts.append({name: value[:count] for name, value in outputs.items()})
        if advance is not None:
            advance(count)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
