"""The interface of every runtime's session, and the checks that they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgekit import tasks
from edgekit.errors import BundleError, DataError, EdgekitError, near, reason_of
from edgekit.tasks import Task
from edgekit.text import counted

# The setting for what a runtime computes with: ONNX Runtime calls it an execution provider, OpenVINO a device. `edgekit.targets` lists
# its values.
PROVIDER = "provider"
# Settings that XNNPACK's runtimes report: in how many parts it runs the graph, and which operators run in slower kernels.
PARTITIONS, OUTSIDE = "xnnpack_partitions", "outside_xnnpack"
MOST_BATCH = 4096  # largest fixed batch of a graph; smaller batches are padded to it, which takes memory


class Session(Protocol):
    """A model, loaded into a runtime and ready to run.

    Attributes:
        runtime: the runtime's name, as in a bundle's variant.
        version: the runtime's own version.
        settings: the settings given to the runtime and those that it reported: provider or device, inference precision, threads, …
        outputs: the names of the graph's outputs, those that its task requires among them.
        batch: the graph's fixed batch size; None if its batch axis is free.
    """

    runtime: str
    version: str
    settings: dict[str, str]
    outputs: list[str]
    batch: int | None

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run a batch for the main output of the model's task (see `edgekit.tasks`).

        Args:
            images: uint8 pixels of shape (n, H, W, 3) with n >= 1 (n = `batch` if the graph fixes it) and the model's H and
                W; any memory layout, read-only too.

        Returns:
            That output, float32, in newly allocated memory: of a classification the logits (n, classes).

        Raises:
            DataError: the batch is not of that dtype or shape.
        """
        ...

    def run_all(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return every output of the graph, float32 with n rows, by its name.

        The arguments and errors are those of `run`.
        """
        ...

    def close(self) -> None:
        """Release the model's memory; the session cannot run afterwards."""
        ...


class ProfiledNode(NamedTuple):
    """The time of one node of the runtime's graph over all runs of a profile."""

    name: str
    operator: str
    calls: int
    nanoseconds: int


class StageTimes(NamedTuple):
    """The times of one run on an accelerator, in nanoseconds: the transfer of the images, the computation, the transfer of the outputs."""

    host_to_device: int
    compute: int
    device_to_host: int


@runtime_checkable
class Profiled(Protocol):
    """A session that can measure the time of each node."""

    def profile(self, images: NDArray[np.uint8], runs: int, warmup: int) -> list[ProfiledNode]:
        """Return the time of every node over `runs` runs of a batch after `warmup` others, in the order of execution."""
        ...


@runtime_checkable
class Staged(Protocol):
    """A session that can time its transfers separately."""

    def stages(self, images: NDArray[np.uint8]) -> StageTimes | None:
        """Time one run stage by stage; None if nothing is transferred."""
        ...


@runtime_checkable
class Sharing(Protocol):
    """A session that compiles separate graphs for some batch sizes, and one with a free batch axis for all others."""

    def share_graph(self) -> None:
        """Compile no more graphs for single batch sizes: new sizes share the one with a free axis."""
        ...


def share_graph(session: Session) -> None:
    """Call `Sharing.share_graph`, if the session has it."""
    if isinstance(session, Sharing):
        session.share_graph()


def fold_layers(executions: Sequence[tuple[str, str, int]], runs: int, warmup: int) -> list[ProfiledNode]:
    """Add up the executions (name, operator, nanoseconds) of each node over the runs, without the first `warmup` of them.

    A node that is executed several times per run counts each time.
    """
    times_of: dict[tuple[str, str], list[int]] = {}
    for name, operator, nanoseconds in executions:
        times_of.setdefault((name, operator), []).append(nanoseconds)
    layers = []
    for (name, operator), times in times_of.items():
        kept = times[len(times) * warmup // runs :]
        layers.append(ProfiledNode(name, operator, len(kept), sum(kept)))
    return layers


class Input(NamedTuple):
    """The input of a graph: its name, (H, W, 3), and its fixed batch size or None."""

    name: str
    shape: tuple[int, int, int]
    batch: int | None


def check_graph(
    model: Path,
    inputs: Sequence[tuple[str, str, Sequence[int | None]]],
    outputs: Sequence[str],
    task: Task | None = None,
) -> Input:
    """Check that a graph is one of edgekit's, and return its input.

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
        raise BundleError(f"{model}: the graph has {len(inputs)} inputs, but must have one, a batch of images", hint)
    name, dtype, shape = inputs[0]
    if dtype != "uint8" or len(shape) != 4 or shape[3] != 3:
        listed = ", ".join("free" if side is None else str(side) for side in shape)
        raise BundleError(f"{model}: the graph's input is {dtype} ({listed}), not uint8 images (n, H, W, 3)", hint)
    if shape[1] is None or shape[2] is None:
        raise BundleError(f"{model}: the graph has no fixed image size", hint)
    if shape[0] is not None and not 0 < shape[0] <= MOST_BATCH:
        raise BundleError(f"{model}: the graph's batch size is {shape[0]}, not in 1 to {MOST_BATCH}", hint)
    if missing := [name for name in (task or tasks.find(tasks.DEFAULT)).required if name not in outputs]:
        raise BundleError(f"{model}: the graph has no output named {missing[0]}, only {', '.join(outputs)}", hint)
    return Input(name, (shape[1], shape[2], 3), shape[0])


def check_images(images: object, shape: tuple[int, int, int], batch: int | None) -> None:
    """Check a batch for a graph. `Session.run` has the same test inline, because a call would cost time.

    Raises:
        DataError: it is not a batch of uint8 images of this shape, is empty, or does not have the graph's fixed size.
    """
    if (
        not isinstance(images, np.ndarray)
        or images.dtype != np.uint8
        or images.shape[1:] != shape
        or len(images) != (batch or len(images) or 1)
    ):
        raise wrong_images(images, shape, batch)


def wrong_images(images: object, shape: tuple[int, int, int], batch: int | None) -> DataError:
    """Return the error for an invalid batch, after the cheap test in `Session.run` has failed."""
    hint = "prepare images with the bundle's preprocessing and stack them: np.stack([preprocessing(image)])"
    want = f"uint8 images of shape ({batch or 'n'}, {shape[0]}, {shape[1]}, 3)"
    if not isinstance(images, np.ndarray):
        return DataError(f"the model takes {want}, got {type(images).__name__}", hint)
    if images.dtype == np.uint8 and images.shape == (0, *shape):
        return DataError("the batch has no images", hint)
    if images.dtype == np.uint8 and images.shape == shape:
        hint = "add the batch axis: image[None]"
    elif batch is not None and images.dtype == np.uint8 and images.shape[1:] == shape:
        hint = f"the graph takes exactly {counted(batch, 'image')} per run: pad the batch (as `run_in_batches` does), or export with a free batch"
    got = ", ".join(str(side) for side in images.shape)
    return DataError(f"the model takes {want}, got {images.dtype} of shape ({got})", hint)


def check_settings(runtime: str, settings: Mapping[str, str], known: Sequence[str]) -> None:
    """Refuse settings that a runtime's session does not know, because ignoring one would run something that was not verified.

    Raises:
        BundleError: a setting is unknown.
    """
    for key in settings:
        if key not in known:
            raise BundleError(
                f"{runtime}: unknown setting {key}",
                near(key, known) or f"known settings: {', '.join(known)}; update edgekit",
            )


def check_cpu(runtime: str, settings: Mapping[str, str], model: Path) -> None:
    """Refuse settings of a runtime that has one provider, `cpu`, and no other setting.

    Raises:
        BundleError: a setting or the provider is unknown.
    """
    check_settings(runtime, settings, [PROVIDER])
    if (provider := settings.get(PROVIDER, "cpu")) != "cpu":
        raise BundleError(f"{model}: unknown provider {provider} of {runtime}", near(provider, ["cpu"]) or "take cpu")


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
    """Return the outputs for any number of images, in runs of `batch` images, or of the graph's fixed batch size.

    With a fixed batch size, the last batch is padded with its own images, whose outputs are dropped.

    Args:
        session: a loaded model.
        images: uint8 (n, H, W, 3) with n >= 1.
        batch: images per run if the graph's batch axis is free.
        only: the task's main output; leaves out the others, which take memory for many images. Empty: all outputs.
        advance: called after each run with the number of images.

    Returns:
        By output name, float32 of n rows.

    Raises:
        DataError: see `Session.run`.
        BundleError: the runtime fails, for example because it cannot compute a graph that it has loaded.
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
        except (EdgekitError, AttributeError, TypeError):  # a mistake of the caller, for example a closed session
            raise
        except Exception as error:  # the runtime's own error class
            raise BundleError(
                f"{session.runtime} cannot run the model with {counted(len(part), 'image')}: {reason_of(error, 300)}",
                "use a smaller batch, or export the bundle again",
            ) from error
        parts.append({name: value[:count] for name, value in outputs.items()})
        if advance is not None:
            advance(count)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
