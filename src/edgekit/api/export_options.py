"""What the options of an export mean: targets, sizes, boards, GPUs and thresholds; checked before the model is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit.abstention import RULES
from edgekit.arguments import several
from edgekit.errors import ExportError
from edgekit.sizes import LEAST_SIDE, MOST_SIDE, ImageSize, SizeLike
from edgekit.targets import DEFAULT_TARGETS, every
from edgekit.task_names import ANOMALY
from edgekit.terminal import echo

_NOT_FOR_ANOMALIES = ("litert", "micro", "executorch")


def chosen_targets(asked: str | Sequence[str], batch: int | None = None) -> tuple[str, ...]:
    """The targets that are meant, each once; `all` leaves out what cannot be made here, or not with this batch size, and says so.

    Args:
        asked: names of targets, or `all` among them; none: the defaults.
        batch: the batch size of the graphs; None: any.
    """
    names = tuple(dict.fromkeys(several(asked))) or DEFAULT_TARGETS
    if "all" not in names:
        return names
    from edgekit.export.listing import why_not_made

    chosen = []
    for target in every().values():
        other_batch = batch is not None and target.only_batch not in {0, batch}
        if missing := why_not_made(target) or (f"it runs batches of {target.only_batch} alone" if other_batch else ""):
            echo(f"{target.name} is left out: {missing}", err=True)
        else:
            chosen.append(target.name)
    return tuple(chosen)


def targets_of_task(task: str, targets: tuple[str, ...], every_target: bool) -> tuple[str, ...]:
    """The targets that can serve a task; of `--target all`, the others are left out, and named.

    Raises:
        ExportError: another one is asked for.
    """
    if task != ANOMALY:
        return targets
    other = [name for name in targets if name in _NOT_FOR_ANOMALIES]
    if other and not every_target:
        raise ExportError(
            f"--target {other[0]}: not supported for task {ANOMALY}, whose graphs search a bank, or whiten features",
            f"take {', '.join(name for name in every() if name not in _NOT_FOR_ANOMALIES)}",
        )
    for name in other:
        echo(f"{name} is left out: not supported for task {ANOMALY}", err=True)
    return tuple(name for name in targets if name not in other)


def for_gpus(capabilities: str | Sequence[str] | None, targets: Sequence[str]) -> dict[str, Any]:
    """The option of the targets that build for other GPUs than this machine's.

    Raises:
        ExportError: no such target is asked for, or there is no such capability.
    """
    from edgekit.runtimes.tensorrt.options import parse_capabilities

    if capabilities is None:
        return {}
    _check_taken("compute_capabilities", "--compute-capability", targets, "other targets build on the device")
    text = capabilities if isinstance(capabilities, str) else ",".join(capabilities)
    return {"compute_capabilities": parse_capabilities(text)}


def for_boards(
    max_ram: str | int | None, max_flash: str | int | None, ethos_u: str | None, targets: Sequence[str]
) -> dict[str, Any]:
    """The options of the targets for microcontrollers.

    Raises:
        ExportError: no such target is asked for, or an option's value is not valid.
    """
    given = {"max_ram": max_ram, "max_flash": max_flash, "ethos_u": ethos_u}
    chosen = {name: value for name, value in given.items() if value is not None}
    for name in chosen:
        _check_taken(name, f"--{name.replace('_', '-')}", targets, "give that target, or leave it out")
    if not chosen:
        return {}
    from edgekit.export.micro.limits import parse_size
    from edgekit.export.micro.npu import check_accelerator

    if ethos_u is not None:
        check_accelerator(ethos_u)
    sizes = {
        name: parse_size(value, f"--{name.replace('_', '-')}") for name, value in chosen.items() if name != "ethos_u"
    }
    return {**chosen, **sizes}


def _check_taken(name: str, option: str, targets: Sequence[str], hint: str) -> None:
    """Check that one of the targets has an option of its own (`Target.options`).

    Raises:
        ExportError: none has.
    """
    takers = [target.name for target in every().values() if name in target.options]
    if not set(takers) & set(targets):
        raise ExportError(f"{option} is of --target {' and '.join(takers)} alone", hint)


def checked_size(size: SizeLike | None, option: str) -> ImageSize | None:
    """Return a size within the limits of a bundle.

    Raises:
        ExportError: it is none.
    """
    if size is None:
        return None
    try:
        found = ImageSize.of(size)
    except ValueError as error:
        raise ExportError(f"{option}: {error}", "for example 96, or (96, 128)") from error
    if not all(LEAST_SIDE <= side <= MOST_SIDE for side in found):
        raise ExportError(
            f"{option} {found.option}: is not possible", f"give sides from {LEAST_SIDE} to {MOST_SIDE} pixels"
        )
    return found


def check_abstention(abstain: str, false_abstain: float) -> None:
    """Check the score by which an image is answered with unknown, and the share of known images that may be.

    Raises:
        ExportError: there is no such score, or the share is not possible.
    """
    if abstain != "never" and abstain not in RULES:
        raise ExportError(f"abstain: {abstain!r} is no score", f"give one of {', '.join(RULES)}, or never")
    if not 0 < false_abstain <= 0.5:
        raise ExportError(
            f"false_abstain: {false_abstain:g} is not above 0 and at most 0.5", "0.05 is one image in twenty"
        )
