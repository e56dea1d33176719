"""MoCo, InstDisc and triplets in one process: what they compare, and what they remember from one step to the next."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from edgekit.errors import RecipeError
from edgekit.recipe import METHODS as CONFIGS
from edgekit.recipe import Architecture, parse
from edgekit.train.loop.numerics import unit
from edgekit.train.pretrain import build_method
from edgekit.train.pretrain.instdisc import InstDisc
from edgekit.train.pretrain.losses import info_nce, nce, nce_log_normalizer, triplet
from edgekit.train.pretrain.method import Method, Views
from edgekit.train.pretrain.moco import MoCo

BATCH, POOL, SIDE = 4, 10, 16


def build(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    projection = CONFIGS[name]().projection.model_copy(update={"hidden": 8, "output": 6})
    encoder = Architecture(name="resnet10", width=0.125)
    config = CONFIGS[name](encoder=encoder, projection=projection, batch_size=BATCH, **options)
    return build_method(config, SIDE, POOL)  # type: ignore[arg-type]


def batch(method: Method, step: int = 0) -> Views:
    random = torch.Generator().manual_seed(step)
    images = [torch.randn(BATCH, 3, SIDE, SIDE, generator=random) for _ in range(method.views)]
    return Views(images, torch.randperm(POOL, generator=random)[:BATCH], torch.Generator().manual_seed(step))


def descend(method: Method, steps: int) -> list[float]:
    """Losses of some steps of gradient descent."""
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = method(batch(method, step)).value
        loss.backward()
        optimizer.step()
        method.after_step((step + 1) / steps)
        losses.append(loss.item())
    return losses


def test_moco_compares_queries_with_keys_and_the_queue_as_it_was() -> None:
    method: MoCo = build("moco", queue=12)
    descend(method, 1)  # so that network and key encoder differ
    views, queue = batch(method, 1), method.queue.clone()
    loss = method(views)
    keys = method.key_encoder(views.images[1])
    assert not keys.requires_grad
    torch.testing.assert_close(loss.value, info_nce(loss.projections, keys, queue, 0.2))
    assert not torch.allclose(method.key_encoder.module.head(loss.features), loss.projections)
    # The next oldest are replaced, and nothing else.
    torch.testing.assert_close(method.queue[4:8], unit(keys))
    torch.testing.assert_close(method.queue[:4], queue[:4], atol=0, rtol=0)
    torch.testing.assert_close(method.queue[8:], queue[8:], atol=0, rtol=0)


def test_moco_queue_is_a_ring_of_unit_keys() -> None:
    method: MoCo = build("moco", queue=8)
    first = method.queue.clone()
    torch.testing.assert_close(first.norm(dim=1), torch.ones(8))
    descend(method, 3)
    assert method.oldest.item() == 4
    third = unit(method.queue[:4])
    torch.testing.assert_close(method.queue[:4], third)
    assert not torch.allclose(method.queue, first, atol=0.1)


def test_symmetric_moco_is_the_mean_of_both_directions() -> None:
    both, one = build("moco", queue=8, symmetric=True), build("moco", queue=8)
    both.load_state_dict(one.state_dict())
    views = batch(both)
    queue = one.queue.clone()
    losses = []
    for images in (views.images, views.images[::-1]):
        one.queue.copy_(queue)
        losses.append(one(Views(images, views.index, views.generator)).value)
    outcome = both(views)
    torch.testing.assert_close(outcome.value, torch.stack(losses).mean())
    assert len(outcome.projections) == 2 * BATCH
    assert both.oldest.item() == 0  # eight keys a step


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queue": 1000, "batch_size": 256}, r"pretrain.queue is 1000, but must be a multiple of 256.*instance 1024"),
        ({"queue": 256, "batch_size": 512}, r"multiple of 512.*instance 512"),
        ({"queue": 256, "batch_size": 256, "symmetric": True}, r"multiple of 512.*2 \* batch_size"),
    ],
)
def test_a_queue_that_is_no_multiple_of_the_batch_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse({"pretrain": {"method": "moco", **options}})


def test_instdisc_is_nce_against_the_bank_as_it_was() -> None:
    method: InstDisc = build("instdisc", negatives=7, loss="nce")
    views, bank = batch(method), method.bank.clone()
    assert len(views.images) == 1
    loss = method(views)
    samples = bank[torch.randint(POOL, (7,), generator=torch.Generator().manual_seed(0))]
    log_z = nce_log_normalizer(loss.projections, samples, 0.07, POOL)
    torch.testing.assert_close(loss.value, nce(loss.projections, bank[views.index], samples, 0.07, log_z, POOL))
    # Half the old slot, half the new projection, back on the sphere; the slots of other images stay.
    moved = F.normalize(0.5 * bank[views.index] + 0.5 * unit(loss.projections.detach()), dim=1)
    torch.testing.assert_close(method.bank[views.index], moved)
    others = [i for i in range(POOL) if i not in views.index]
    torch.testing.assert_close(method.bank[others], bank[others], atol=0, rtol=0)


def test_instdisc_with_info_nce_compares_with_the_same_slots() -> None:
    method: InstDisc = build("instdisc", negatives=7)
    views, bank = batch(method), method.bank.clone()
    loss = method(views)
    samples = bank[torch.randint(POOL, (7,), generator=torch.Generator().manual_seed(0))]
    torch.testing.assert_close(loss.value, info_nce(loss.projections, bank[views.index], samples, 0.07))
    assert method.log_normalizer.isnan()  # it needs none


def test_instdisc_keeps_the_normalizer_of_its_first_batch() -> None:
    method: InstDisc = build("instdisc", negatives=7, loss="nce")
    assert method.log_normalizer.isnan()
    descend(method, 1)
    first = method.log_normalizer.clone()
    assert first.isfinite()
    descend(method, 3)
    assert torch.equal(method.log_normalizer, first)


@pytest.mark.parametrize("mining", ["semi-hard", "hard", "all"])
def test_triplet_passes_on_margin_and_mining(mining: Any) -> None:
    method = build("triplet", margin=0.3, mining=mining)
    loss = method(batch(method))
    torch.testing.assert_close(loss.value, triplet(*loss.projections.chunk(2), 0.3, mining))
