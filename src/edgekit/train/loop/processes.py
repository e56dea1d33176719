"""Which of how many processes this one is, as whoever started it says in the environment; and meeting the others.

torchrun sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT (https://docs.pytorch.org/docs/stable/elastic/run.html),
srun sets SLURM_PROCID, SLURM_NTASKS and SLURM_LOCALID. Others set some of them, or leave them behind.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from torch import distributed as dist

from edgekit.errors import EdgekitError, RecipeError, quoted
from edgekit.terminal import echo

JOIN_SECONDS = 120.0
_SAY_AFTER_SECONDS = 3.0
_PAUSE_SECONDS = 0.2


@dataclass(frozen=True)
class Place:
    """This process among those that train together.

    Attributes:
        rank: its number, 0 to world_size - 1.
        world_size: how many there are, 2 or more.
        local_rank: its number on its machine; None where nobody says.
        address: where the first one listens; empty where nobody says.
        port: and on which port; 0 where nobody says.
        hint: what to do where the others do not come.
    """

    rank: int
    world_size: int
    local_rank: int | None
    address: str
    port: int
    hint: str


class OthersMissing(EdgekitError):
    """The other processes did not come, or were lost."""

    exit_code = 1


def place(environment: Mapping[str, str] = os.environ, *, alone: bool = False) -> Place | None:
    """This process's place; None where it was started alone.

    Args:
        environment: variables.
        alone: whether the recipe asks for one process. Then SLURM's variables in a batch script, which runs once whatever the number of
            tasks, are not about this process.

    Raises:
        RecipeError: the variables contradict each other, or some are missing.
    """
    if "RANK" in environment or "WORLD_SIZE" in environment:
        return _of_torchrun(environment)
    if "SLURM_PROCID" in environment and _number(environment, "SLURM_NTASKS", 1) > 1:
        if alone and "SLURM_STEP_ID" not in environment and _number(environment, "SLURM_PROCID", 0) == 0:
            return None
        return _of_slurm(environment)
    return None


def _of_torchrun(environment: Mapping[str, str]) -> Place | None:
    hint = "start the processes with torchrun, or unset RANK and WORLD_SIZE to train in one"
    rank = _number(environment, "RANK", 0)
    world_size = _number(environment, "WORLD_SIZE", 1)
    if world_size == 1 and rank == 0:
        return None
    if missing := [name for name in ("RANK", "WORLD_SIZE") if name not in environment]:
        found = next(f"{name}={environment[name]}" for name in ("RANK", "WORLD_SIZE") if name in environment)
        raise RecipeError(f"the environment has {found}, but not {missing[0]}", hint)
    local = _number(environment, "LOCAL_RANK", -1)
    address, port = environment.get("MASTER_ADDR", ""), _number(environment, "MASTER_PORT", 0)
    return _checked(Place(rank, world_size, local if local >= 0 else None, address, port, hint))


def _of_slurm(environment: Mapping[str, str]) -> Place:
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    hint = "start the command with srun; or unset SLURM_NTASKS, and edgekit starts the processes of one machine itself"
    nodes = environment.get("SLURM_NODELIST") or environment.get("SLURM_JOB_NODELIST") or ""
    try:
        first = SLURMEnvironment.resolve_root_node_address(nodes) if nodes else "127.0.0.1"
    except Exception as error:  # of the many forms of a list of nodes
        raise RecipeError(f"SLURM_NODELIST is {quoted(nodes)}, not a list of nodes: {error}", hint) from error
    job = environment.get("SLURM_JOB_ID", "").strip()[-4:]  # jobs that share a machine differ in it
    address = environment.get("MASTER_ADDR") or first
    port = _number(environment, "MASTER_PORT", 15000 + int(job) if job.isdecimal() else 12910)
    local = _number(environment, "SLURM_LOCALID", -1)
    rank, world_size = _number(environment, "SLURM_PROCID", 0), _number(environment, "SLURM_NTASKS", 1)
    return _checked(Place(rank, world_size, local if local >= 0 else None, address, port, hint))


def _checked(found: Place) -> Place:
    if not 0 <= found.rank < found.world_size:
        raise RecipeError(f"this process is number {found.rank} of {found.world_size}, counted from 0", found.hint)
    return found


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, "").strip()
    if not text:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise RecipeError(f"the environment's {name} is {quoted(text)}, not a number", f"unset {name}, or set it right")
    return int(text)


def meet(found: Place, patience: float = JOIN_SECONDS) -> Any:
    """Wait for the other processes, say so where it takes long, and give up after a while; Ctrl-C ends it at once.

    Args:
        found: this process's place.
        patience: seconds.

    Returns:
        The store of torch.distributed that all of them have joined.

    Raises:
        RecipeError: nobody says where.
        OthersMissing: some did not come.
    """
    if not found.address:
        raise RecipeError(
            "the environment has RANK and WORLD_SIZE, but not MASTER_ADDR, where the first process listens", found.hint
        )
    if not 0 < found.port < 1 << 16:
        what = f"is {found.port}, not a port" if found.port else "is not set"
        raise RecipeError(f"the environment's MASTER_PORT {what}", found.hint)
    began = time.monotonic()
    said = False

    def waits(missing: str) -> None:
        nonlocal said
        waited = time.monotonic() - began
        where = f"{found.address}:{found.port}"
        if waited > patience:
            raise OthersMissing(
                f"process {found.rank} of {found.world_size} waited {patience:.0f} s at {where} for {missing}",
                found.hint,
            )
        if waited > _SAY_AFTER_SECONDS and not said:
            said = True
            echo(
                f"process {found.rank} of {found.world_size} waits at {where} for {missing}, up to {patience:.0f} s",
                err=True,
            )
        time.sleep(_PAUSE_SECONDS)

    store = _store(found, waits)
    store.set(f"edgekit/joined/{found.rank}", "1")
    while absent := [i for i in range(found.world_size) if not store.check([f"edgekit/joined/{i}"])]:
        waits(f"process {', '.join(map(str, absent[:8]))}{' and more' if len(absent) > 8 else ''}")
    return store


def _store(found: Place, waits: Any) -> Any:
    """The first process serves it, unless torchrun does; the others connect as soon as somebody listens."""
    serves = found.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    while not serves and not _listens(found):
        waits("process 0")
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            found.address, found.port, found.world_size, serves, timedelta(seconds=30), wait_for_workers=False
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise OthersMissing(
            f"process {found.rank} of {found.world_size}: no connection at {found.address}:{found.port}: "
            f"{str(error).partition('. ')[0]}",
            "see whether another training uses the port (MASTER_PORT)",
        ) from error
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"/worker/attempt_{attempt}", store)  # type: ignore[attr-defined]


def _listens(found: Place) -> bool:
    try:
        with socket.create_connection((found.address, found.port), timeout=1.0):
            return True
    except OSError:
        return False


_LOST = re.compile(
    r"closed by peer|connection (was )?(closed|reset|refused)|broken pipe|gloo|nccl|timed out|tcpstore", re.I
)


def is_lost(error: BaseException) -> bool:
    """Whether an error says that another process is gone: who raised it has nothing to add to what that one says."""
    return isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None
