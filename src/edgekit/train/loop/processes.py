"""The rank of this process and the world size, from the environment; and the rendezvous with the other processes.

torchrun sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT (https://docs.pytorch.org/docs/stable/elastic/run.html),
srun sets SLURM_PROCID, SLURM_NTASKS and SLURM_LOCALID. Other launchers set some of them, or leave them set.
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
        local_rank: its number on its machine; None if unknown.
        address: where process 0 listens; empty if unknown.
        port: of process 0; 0 if unknown.
        hint: what to do if the other processes do not connect.
    """

    rank: int
    world_size: int
    local_rank: int | None
    address: str
    port: int
    hint: str


class OthersMissing(EdgekitError):
    """The other processes did not connect, or were lost."""

    exit_code = 1


def place(environment: Mapping[str, str] = os.environ, *, alone: bool = False) -> Place | None:
    """Return the place of this process; None if it was started alone.

    Args:
        environment: variables.
        alone: whether the recipe needs one process. Then the SLURM variables of a batch script, which runs once for any number of
            tasks, do not describe this process.

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
        present = next(f"{name}={environment[name]}" for name in ("RANK", "WORLD_SIZE") if name in environment)
        raise RecipeError(f"the environment has {present}, but not {missing[0]}", hint)
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


def _checked(own_place: Place) -> Place:
    if not 0 <= own_place.rank < own_place.world_size:
        raise RecipeError(
            f"this process is number {own_place.rank} of {own_place.world_size}, counted from 0", own_place.hint
        )
    return own_place


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, "").strip()
    if not text:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise RecipeError(
            f"the environment variable {name} is {quoted(text)}, not a number", f"unset {name}, or set it to a number"
        )
    return int(text)


def meet(own_place: Place, patience: float = JOIN_SECONDS) -> Any:
    """Wait for the other processes, report a long wait, and give up after a while; Ctrl-C stops the wait at once.

    Args:
        own_place: the place of this process.
        patience: seconds.

    Returns:
        The store of torch.distributed that all of them have joined.

    Raises:
        RecipeError: the address is unknown.
        OthersMissing: some processes did not connect.
    """
    if not own_place.address:
        raise RecipeError(
            "the environment has RANK and WORLD_SIZE, but not MASTER_ADDR, where the first process listens",
            own_place.hint,
        )
    if not 0 < own_place.port < 1 << 16:
        what = f"is {own_place.port}, not a port" if own_place.port else "is not set"
        raise RecipeError(f"the environment variable MASTER_PORT {what}", own_place.hint)
    began = time.monotonic()
    reported = False

    def waits(missing: str) -> None:
        nonlocal reported
        waited = time.monotonic() - began
        where = f"{own_place.address}:{own_place.port}"
        if waited > patience:
            raise OthersMissing(
                f"process {own_place.rank} of {own_place.world_size} waited {patience:.0f} s at {where} for {missing}",
                own_place.hint,
            )
        if waited > _SAY_AFTER_SECONDS and not reported:
            reported = True
            echo(
                f"process {own_place.rank} of {own_place.world_size} waits at {where} for {missing}, up to {patience:.0f} s",
                err=True,
            )
        time.sleep(_PAUSE_SECONDS)

    store = _store(own_place, waits)
    store.set(f"edgekit/joined/{own_place.rank}", "1")
    while absent := [i for i in range(own_place.world_size) if not store.check([f"edgekit/joined/{i}"])]:
        waits(f"process {', '.join(map(str, absent[:8]))}{' and more' if len(absent) > 8 else ''}")
    return store


def _store(own_place: Place, waits: Any) -> Any:
    """Return the store: process 0 serves it, unless torchrun does; the others connect as soon as it listens."""
    serves = own_place.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    while not serves and not _listens(own_place):
        waits("process 0")
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            own_place.address,
            own_place.port,
            own_place.world_size,
            serves,
            timedelta(seconds=30),
            wait_for_workers=False,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise OthersMissing(
            f"process {own_place.rank} of {own_place.world_size}: no connection at {own_place.address}:{own_place.port}: "
            f"{str(error).partition('. ')[0]}",
            "check whether another training uses the port (MASTER_PORT)",
        ) from error
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"/worker/attempt_{attempt}", store)  # type: ignore[attr-defined]


def _listens(own_place: Place) -> bool:
    try:
        with socket.create_connection((own_place.address, own_place.port), timeout=1.0):
            return True
    except OSError:
        return False


_LOST = re.compile(
    r"closed by peer|connection (was )?(closed|reset|refused)|broken pipe|gloo|nccl|timed out|tcpstore", re.I
)


def is_lost(error: BaseException) -> bool:
    """Return whether an error says that another process is gone, whose own message explains why."""
    return isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None
