"""Start and join the processes of a training on several devices or machines.

    edgekit train recipe.yaml --devices 4                                            one machine: edgekit starts the processes
    torchrun --nnodes 2 --nproc-per-node 4 … -m edgekit train … --devices 4 --nodes 2   several: torchrun does, on each of them
    srun --nodes 2 --ntasks-per-node 4 edgekit train … --devices 4 --nodes 2            or SLURM

Every process runs the same command; only the first one writes into the run, whose file system all processes must share.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed as dist

from edgekit import stopping
from edgekit.children import PARENT
from edgekit.errors import EdgekitError, RecipeError
from edgekit.processors import usable_cpus
from edgekit.recipe import Hardware
from edgekit.train.loop.devices import uses_cuda
from edgekit.train.loop.processes import OthersMissing, is_lost, meet, place

# One process may decode images or evaluate for a long time while the others wait for it.
_PATIENCE = timedelta(hours=4)
_GRACE_SECONDS = 30.0


class WorkerLost(EdgekitError):
    """A process of a distributed training was killed."""

    exit_code = 1


def launch(devices: int, arguments: list[str]) -> int:
    """Run `edgekit ARGUMENTS` in `devices` processes on this machine and wait for them.

    Args:
        devices: number of processes.
        arguments: of the command line, without the program.

    Returns:
        The exit code: 0, or that of the process that failed first.

    Raises:
        WorkerLost: a process was killed; the others were stopped.
        KeyboardInterrupt: Ctrl-C or a termination signal, passed on to the processes.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.ERROR)  # this process only waits; the workers report errors
    share, requested = max(1, usable_cpus() // devices), os.environ.get("OMP_NUM_THREADS", "")
    os.environ["OMP_NUM_THREADS"] = str(min(share, int(requested)) if requested.isdigit() and int(requested) else share)
    os.environ[PARENT] = str(os.getpid())  # the processes end with this one (see `edgekit.children`)
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=devices, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0", max_restarts=0, monitor_interval=0.2,
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)("-m", "edgekit", *arguments)
    except ChildFailedError as error:
        worker, failure = error.get_first_failure()
        if failure.exitcode < 0:
            raise WorkerLost(
                f"process {worker} of {devices} was killed by {signal.Signals(-failure.exitcode).name}; the others were stopped",
                "run the same command again: it resumes from the last checkpoint, if there is one",
            ) from error
        return failure.exitcode
    except SignalException as stop:
        stopping.remember(stop.sigval)
        raise KeyboardInterrupt from None
    return 0


@contextmanager
def joined(hardware: Hardware) -> Iterator[None]:
    """Join the other processes of this training, if there are any, and leave them at the end.

    Raises:
        RecipeError: the recipe needs another number of processes than were started, or the environment is ambiguous.
        OthersMissing: they did not connect within two minutes.
    """
    wanted = hardware.devices * hardware.nodes
    own_place = place(alone=wanted == 1)
    if own_place is None:
        if wanted > 1:
            raise RecipeError(
                f"hardware: the recipe needs {hardware.nodes} machines with {hardware.devices} devices each, but this process was started alone",
                "start the same command on each machine with torchrun or srun",
            )
        yield
        return
    if own_place.world_size != wanted:
        raise RecipeError(
            f"{own_place.world_size} processes were started, but the recipe needs {wanted}",
            "give the same --devices and --nodes as to torchrun or srun",
        )
    local = own_place.rank % hardware.devices if own_place.local_rank is None else own_place.local_rank
    on_gpu = uses_cuda(hardware)
    if on_gpu and local >= torch.cuda.device_count():
        raise RecipeError(
            f"hardware.devices: {hardware.devices} processes on a machine with {torch.cuda.device_count()} GPUs",
            f"lower --devices to {torch.cuda.device_count()}",
        )
    # Lightning and other libraries read torchrun's variables.
    os.environ |= {
        "RANK": str(own_place.rank),
        "LOCAL_RANK": str(local),
        "WORLD_SIZE": str(own_place.world_size),
        "MASTER_ADDR": own_place.address,
        "MASTER_PORT": str(own_place.port),
    }
    if on_gpu:
        torch.cuda.set_device(local)
    elif not hardware.threads:
        torch.set_num_threads(_own_share(hardware.devices))
    store = meet(own_place)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=store,
        rank=own_place.rank,
        world_size=own_place.world_size,
        timeout=_PATIENCE,
    )
    try:
        # If a process failed before all are connected, gloo would print its own message in the others.
        dist.barrier()
        yield
    except RuntimeError as error:
        if own_place.rank == 0 or not is_lost(error):
            raise
        time.sleep(_GRACE_SECONDS)  # the launcher ends this process once process 0 has exited
        raise OthersMissing(
            f"process {own_place.rank} of {own_place.world_size} lost process 0", "see the message of process 0"
        ) from error
    finally:
        dist.destroy_process_group()


def _own_share(processes: int) -> int:
    """Return the processors for each of the processes on this machine.

    Processes of torchrun share the processors that this process may use; SLURM may assign processors to each task.
    """
    shared = usable_cpus() // processes
    return max(1, min(usable_cpus(), (os.cpu_count() or 1) // processes) if "SLURM_PROCID" in os.environ else shared)
