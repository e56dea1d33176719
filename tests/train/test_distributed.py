"""Processes that really train together (gloo, DistributedDataParallel), compared in float64 with one process that has the whole batch.

The processes are started once for each world size; they do everything and save it, and the tests compare.
"""

from __future__ import annotations

import functools
import multiprocessing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch import multiprocessing as torch_multiprocessing
from torch.nn.parallel import DistributedDataParallel

from edgekit.models.momentum import Momentum
from edgekit.recipe import METHODS as CONFIGS
from edgekit.recipe import Architecture
from edgekit.train.loop.distributed import (
    WholeBatchNorm,
    broadcast,
    gather,
    is_synchronized,
    rank,
    synchronize_batchnorm,
    world_size,
)
from edgekit.train.loop.numerics import unit
from edgekit.train.pretrain import METHODS, build_method
from edgekit.train.pretrain.method import Method, Views

WORLDS = [2, pytest.param(4, marks=pytest.mark.extra)]
BATCH, POOL, SIDE, STEPS = 8, 24, 16, 2
CPU = torch.device("cpu")
# Every method, and the variants that take other paths through their code.
CASES: dict[str, dict[str, Any]] = {
    **{name: {"method": name} for name in METHODS},
    "moco, symmetric": {"method": "moco", "symmetric": True},
    "instdisc, nce": {"method": "instdisc", "loss": "nce"},
    "triplet, hard": {"method": "triplet", "mining": "hard"},
    "triplet, all": {"method": "triplet", "mining": "all"},
    "distill, seed": {"method": "distill", "objective": "seed"},
    "distill, compress": {"method": "distill", "objective": "compress"},
}
TEACHER_WIDTH = 8
Outcome = dict[str, Any]


def build(case: str) -> Method:
    """A tiny method in float64. Nothing starts at zero: a residual branch that does would hide its gradients."""
    method, fields = CASES[case]["method"], CONFIGS[CASES[case]["method"]].model_fields
    default = CONFIGS[method]()
    taught = method == "distill"
    small: dict[str, Any] = {
        "encoder": Architecture(name="resnet10", width=0.125),
        "projection": default.projection.model_copy(update={"hidden": 8, **({} if taught else {"output": 8})}),
        "batch_size": BATCH,
        "queue": BATCH + 4 if taught else 4 * BATCH,  # the former turns over in the second step
        "negatives": 12,
    }
    if "predictor" in fields:
        small["predictor"] = default.predictor.model_copy(update={"hidden": 8})  # type: ignore[attr-defined]
    torch.manual_seed(0)
    config = CONFIGS[method](**{k: v for k, v in small.items() if k in fields}, **CASES[case])
    made = build_method(config, SIDE, POOL, teacher_width=TEACHER_WIDTH if taught else None).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def batch(step: int, views: int) -> Views:
    """A step's whole batch."""
    random = torch.Generator().manual_seed(100 + step)
    images = [torch.randn(BATCH, 3, SIDE, SIDE, dtype=torch.float64, generator=random) for _ in range(views)]
    index = torch.randperm(POOL, generator=random)[:BATCH]
    targets = torch.randn(BATCH, TEACHER_WIDTH, dtype=torch.float64, generator=random)
    return Views(images, index, torch.Generator().manual_seed(step), targets)


def share(views: Views) -> Views:
    """This process's part of it."""
    mine = slice(rank() * BATCH // world_size(), (rank() + 1) * BATCH // world_size())
    assert views.targets is not None
    return Views([images[mine] for images in views.images], views.index[mine], views.generator, views.targets[mine])


def train(method: Method, steps: int = STEPS) -> list[Outcome]:
    """Some steps of gradient descent: the loss, the gradients, and the whole state after each."""
    trained = [p for p in method.parameters() if p.requires_grad]
    # As the engine does: buffers are not broadcast.
    model = method if world_size() == 1 else DistributedDataParallel(method, broadcast_buffers=False)
    optimizer = torch.optim.SGD(trained, lr=0.05)
    outcomes = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = model(share(batch(step, method.views))).value
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
        optimizer.step()
        method.after_step((step + 1) / steps)
        state = {name: value.clone() for name, value in method.state_dict().items()}
        outcomes.append({"loss": loss.detach(), "gradients": gradients, "state": state})
    return outcomes


@functools.cache
def alone(case: str) -> list[Outcome]:
    """The same in one process."""
    return train(build(case))


NORMS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "images": ({}, (BATCH, 4, 3, 3)),
    "features": ({}, (BATCH, 4)),
    "cumulative": ({"momentum": None}, (BATCH, 4, 3, 3)),
    "no affine": ({"affine": False}, (BATCH, 4)),
    "no statistics": ({"track_running_stats": False}, (BATCH, 4)),
}


def normalize(case: str) -> Outcome:
    """Two batches through BatchNorm, or through BatchNorm of the whole batch where there are several processes."""
    options, shape = NORMS[case]
    kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    torch.manual_seed(1)
    holder = nn.Sequential(kind(4, dtype=torch.float64, **options))
    for parameter in holder.parameters():
        nn.init.normal_(parameter)
    if world_size() > 1:
        synchronize_batchnorm(holder, CPU)
    outputs, slopes = [], []
    mine = slice(rank() * BATCH // world_size(), (rank() + 1) * BATCH // world_size())
    for _ in range(2):
        inputs = (2 + 3 * torch.randn(shape, dtype=torch.float64))[mine].clone().requires_grad_()
        weights = torch.randn(shape, dtype=torch.float64)[mine]
        output = holder(inputs)
        (output * weights).sum().backward()
        outputs.append(output.detach())
        slopes.append(inputs.grad)
    buffers = {name: value.clone() for name, value in holder.state_dict().items()}
    parameters = {name: p.grad.clone() for name, p in holder.named_parameters() if p.grad is not None}
    holder.eval()
    evaluated = holder(torch.ones(shape, dtype=torch.float64)).detach()
    return {"output": outputs, "slope": slopes, "parameters": parameters, "buffers": buffers, "evaluated": evaluated}


def work(number: int, world: int, folder: str) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{folder}/rendezvous", rank=number, world_size=world, timeout=timedelta(hours=1)
    )
    try:
        outcome: Outcome = {
            "methods": {case: train(synchronize_batchnorm(build(case), CPU)) for case in CASES},  # type: ignore[arg-type]
            "normalized": {case: normalize(case) for case in NORMS},
            "not synchronized": {case: train(build(case), steps=1) for case in ("simclr", "moco")},
            "broadcast": broadcast(f"from {number}"),
        }
        rows = torch.arange(6.0).reshape(3, 2).add(10 * number).requires_grad_()
        everybody = gather(rows)
        ((number + 1) * everybody.square()).sum().backward()
        outcome["gathered"] = {"rows": everybody.detach(), "slope": rows.grad, "whole": gather(torch.tensor([number]))}
        half = WholeBatchNorm(4)(torch.randn(4, 4, dtype=torch.bfloat16))
        outcome["half"] = half.detach()
        torch.save(outcome, Path(folder) / f"{number}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module", params=WORLDS, ids=lambda world: f"{world} processes")
def processes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    """What each process of a world saved."""
    folder = tmp_path_factory.mktemp("world")
    # Fresh processes, as with `spawn`, from one that has imported PyTorch already.
    multiprocessing.set_forkserver_preload(["edgekit.train.pretrain", "torch.nn.parallel"])
    torch_multiprocessing.start_processes(work, (request.param, str(folder)), request.param, start_method="forkserver")
    return [torch.load(folder / f"{number}.pt") for number in range(request.param)]


def assert_same(ours: Any, expected: Any) -> None:
    """float64 to nine digits."""
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("case", CASES)
def test_loss_gradients_and_state_equal_one_process_with_the_whole_batch(processes: list[Outcome], case: str) -> None:
    expected = alone(case)
    for step in range(STEPS):
        assert expected[step]["loss"].isfinite()
        ours = [process["methods"][case][step] for process in processes]
        assert_same(torch.stack([outcome["loss"] for outcome in ours]).mean(), expected[step]["loss"])
        for outcome in ours:
            assert_same(outcome["gradients"], expected[step]["gradients"])
            assert outcome["state"].keys() == expected[step]["state"].keys()
            for name, value in expected[step]["state"].items():  # weights, averages, queue, bank, running statistics
                # InstDisc's normalizing constant is not a number where its loss needs none.
                torch.testing.assert_close(
                    outcome["state"][name], value, rtol=1e-9, atol=1e-11, equal_nan=True, msg=name
                )


def test_the_queues_of_a_distilled_encoder_stay_the_same_in_all_processes(processes: list[Outcome]) -> None:
    """They hold the features of the whole batch, in its order, and turn over alike; each process has its own share of the images."""
    for case, queues in (("distill, seed", ["queue"]), ("distill, compress", ["teacher_queue", "student_queue"])):
        for queue in queues:
            for step in range(STEPS):
                states = [process["methods"][case][step]["state"] for process in processes]
                assert all(int(state[f"{queue}.count"]) == (step + 1) * BATCH for state in states)
                assert all(torch.equal(state[f"{queue}.features"], states[0][f"{queue}.features"]) for state in states)
                places = torch.arange(step * BATCH, (step + 1) * BATCH) % (BATCH + 4)
                if queue != "student_queue":
                    latest = states[0][f"{queue}.features"][places]
                    assert_same(latest, unit(batch(step, 1).targets))  # type: ignore[arg-type]


@pytest.mark.parametrize("case", CASES)
def test_every_trained_parameter_has_a_gradient(case: str) -> None:
    # A queue is empty in the first step, which teaches nothing then.
    gradients = alone(case)[-1 if CASES[case]["method"] == "distill" else 0]["gradients"]
    assert set(gradients) == {name for name, p in build(case).named_parameters() if p.requires_grad}
    # A bias or a weight before BatchNorm may have none worth the name; whole networks without any would prove nothing above.
    assert sum(g.abs().max() > 1e-6 for g in gradients.values()) > 0.8 * len(gradients)


def test_the_comparison_sees_what_is_not_synchronized(processes: list[Outcome]) -> None:
    ours = processes[0]["not synchronized"]["simclr"][0]["gradients"]
    with pytest.raises(AssertionError, match="not close"):
        assert_same(ours, alone("simclr")[0]["gradients"])


def test_moco_shuffles_its_keys_among_processes_that_normalize_alone(processes: list[Outcome]) -> None:
    method, views = build("moco"), batch(0, 2)
    shares = torch.randperm(BATCH, generator=views.generator).chunk(len(processes))
    keys = torch.empty(BATCH, 8, dtype=torch.float64)
    for order in shares:
        keys[order] = unit(method.key_encoder(views.images[1][order]))
    for process in processes:
        assert_same(process["not synchronized"]["moco"][0]["state"]["queue"][:BATCH], keys)
    unshuffled = [unit(method.key_encoder(images)) for images in views.images[1].chunk(len(processes))]
    assert not torch.allclose(torch.cat(unshuffled), keys, atol=1e-3)


@pytest.mark.parametrize("case", NORMS)
def test_batchnorm_of_the_whole_batch_equals_batchnorm(processes: list[Outcome], case: str) -> None:
    ours, expected = [process["normalized"][case] for process in processes], normalize(case)
    for name in ("output", "slope"):
        for step in range(2):
            assert_same(torch.cat([outcome[name][step] for outcome in ours]), expected[name][step])
    for name, slope in expected["parameters"].items():
        assert_same(sum(outcome["parameters"][name] for outcome in ours), slope)
    for outcome in ours:
        assert_same(outcome["buffers"], expected["buffers"])
        assert_same(outcome["evaluated"], expected["evaluated"])


def test_batchnorm_of_the_whole_batch_keeps_sixteen_bits(processes: list[Outcome]) -> None:
    for process in processes:
        assert process["half"].dtype == torch.bfloat16
    assert torch.cat([process["half"] for process in processes]).float().mean(0).abs().max() < 0.01


def test_what_is_gathered_carries_its_gradient_back(processes: list[Outcome]) -> None:
    world = len(processes)
    rows = torch.cat([torch.arange(6.0).reshape(3, 2) + 10 * number for number in range(world)])
    for number, process in enumerate(processes):
        gathered = process["gathered"]
        torch.testing.assert_close(gathered["rows"], rows)
        # Process r takes (r + 1) times the squares of all rows: the gradient is 2 * row * (1 + 2 + ... + world).
        mine = rows[3 * number : 3 * number + 3]
        torch.testing.assert_close(gathered["slope"], 2 * mine * sum(range(1, world + 1)))
        assert gathered["whole"].tolist() == list(range(world))
        assert process["broadcast"] == "from 0"


def test_one_process_needs_none_of_it() -> None:
    rows = torch.randn(2, 3, requires_grad=True)
    assert (world_size(), rank(), broadcast("x")) == (1, 0, "x")
    assert gather(rows) is rows


def test_synchronizing_keeps_parameters_buffers_names_and_types() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())).half()
    network.append(Momentum(network[1], 0.9))
    assert not is_synchronized(network)
    before: dict[str, Tensor] = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    synchronize_batchnorm(network, CPU)
    after: dict[str, Tensor] = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    assert is_synchronized(network)
    assert list(before) == list(after)
    assert all(after[name] is tensor for name, tensor in before.items())
    assert [p.requires_grad for p in network[2].parameters()] == [False, False]
