"""Pseudo-labels against a naive version, their running means in one and two processes, and when they are no longer trusted."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed as dist
from torch import multiprocessing

from edgekit.train.stages.consistency import PseudoLabels, align, class_thresholds, drift, pseudo_label_loss

COUNTS = st.integers(1, 9)
CLASSES = st.integers(2, 6)
SEEDS = st.integers(0, 2**31)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def shares(rng: np.random.Generator, k: int) -> np.ndarray:
    values = rng.uniform(0.1, 1, k)
    return values / values.sum()


@given(COUNTS, CLASSES, SEEDS)
def test_the_loss_and_its_gradient_equal_the_naive_version(n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels, counts = rng.normal(0, 4, (n, k)), rng.integers(0, k, n), rng.random(n) < 0.6
    tensor = torch.tensor(logits, requires_grad=True)
    loss = pseudo_label_loss(tensor, torch.from_numpy(labels), torch.from_numpy(counts))
    loss.backward()
    expected, gradient = 0.0, np.zeros((n, k))
    for i in range(n):
        if counts[i]:
            p = softmax(logits[i : i + 1])[0]
            expected -= np.log(p[labels[i]]) / n
            gradient[i] = (p - np.eye(k)[labels[i]]) / n
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert tensor.grad is not None
    np.testing.assert_allclose(tensor.grad.numpy(), gradient, atol=1e-12)


def test_no_pseudo_label_that_counts_is_a_loss_of_zero_with_a_gradient_of_zero() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    loss = pseudo_label_loss(logits, torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@given(COUNTS, CLASSES, SEEDS)
def test_alignment_equals_the_naive_version(n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    q, share, target = softmax(rng.normal(0, 2, (n, k))), shares(rng, k), shares(rng, k)
    expected = np.zeros((n, k))
    for i in range(n):
        row = [q[i, c] * target[c] / share[c] for c in range(k)]
        expected[i] = [value / sum(row) for value in row]
    np.testing.assert_allclose(align(*map(torch.from_numpy, (q, share, target))).numpy(), expected, atol=1e-12)


def test_alignment_survives_a_class_that_nobody_has() -> None:
    aligned = align(torch.tensor([[1.0, 0.0]]), torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(aligned, torch.tensor([[1.0, 0.0]]))


@given(st.integers(1, 6), CLASSES, SEEDS, st.sampled_from([0.0, 0.5, 0.8, "adaptive"]), st.booleans())
def test_pseudo_labels_equal_the_naive_version_over_several_steps(
    steps: int, k: int, seed: int, threshold: float | str, aligned: bool
) -> None:
    rng = np.random.default_rng(seed)
    start, target = shares(rng, k).astype(np.float32), shares(rng, k).astype(np.float32)
    pseudo = PseudoLabels(
        torch.from_numpy(start),
        torch.from_numpy(target) if aligned else None,
        threshold,
        0.5,  # type: ignore[arg-type]
    )
    share, balanced, level = start.astype(np.float64), (target if aligned else start).astype(np.float64), 1 / k
    for _ in range(steps):
        logits = rng.normal(0, 3, (7, k)).astype(np.float32)
        decided = pseudo(torch.from_numpy(logits))
        q = softmax(logits.astype(np.float64))
        share = 0.99 * share + 0.01 * q.mean(0)
        if aligned:
            q = q * target / share
            q /= q.sum(1, keepdims=True)
        confidence, best = q.max(1), q.argmax(1)
        balanced = 0.99 * balanced + 0.01 * q.mean(0)
        level = 0.99 * level + 0.01 * confidence.mean()
        limits = balanced / balanced.max() * level if threshold == "adaptive" else np.full(k, threshold)
        clear = np.abs(confidence - limits[best]) > 1e-5  # rounding may decide at the threshold itself
        np.testing.assert_array_equal(decided.labels.numpy(), best)
        np.testing.assert_array_equal(decided.counts.numpy()[clear], (confidence >= limits[best])[clear])
    np.testing.assert_allclose(pseudo.share.numpy(), share, atol=1e-5)


def test_a_class_that_the_model_seldom_names_has_a_lower_threshold() -> None:
    limits = class_thresholds(torch.tensor(0.9), torch.tensor([0.6, 0.3, 0.1]))
    torch.testing.assert_close(limits, torch.tensor([0.9, 0.45, 0.15]))


def test_all_is_float32_under_autocast_and_nothing_has_a_gradient() -> None:
    pseudo = PseudoLabels(torch.full((3,), 1 / 3), torch.full((3,), 1 / 3), "adaptive", 0.5)
    logits = torch.randn(5, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        decided = pseudo(logits.bfloat16())
        loss = pseudo_label_loss(logits.bfloat16(), *decided)
    assert loss.dtype == torch.float32
    assert not decided.labels.requires_grad
    assert {b.dtype for name, b in pseudo.named_buffers() if name != "steps"} == {torch.float32}


def test_drift_is_the_share_of_the_images_that_changed_their_class() -> None:
    assert float(drift(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.5, 0.2, 0.3]))) == pytest.approx(0.3)


def test_pseudo_labels_that_all_fall_into_one_class_have_drifted_after_a_while() -> None:
    pseudo = PseudoLabels(torch.full((4,), 0.25), None, 0.95, 0.5)
    one_class = torch.tensor([[50.0, 0.0, 0.0, 0.0]]).expand(8, 4)
    found = []
    for _ in range(120):
        pseudo(one_class)
        found.append(pseudo.drift())
    assert found[48] == 0, "no word in the first steps"
    assert found[-1] == pytest.approx(0.75 * (1 - 0.99**120), rel=1e-4)
    assert found[-1] > pseudo.max_drift


def test_the_running_means_are_in_the_state() -> None:
    pseudo, other = (PseudoLabels(torch.full((3,), 1 / 3), None, "adaptive", 0.5) for _ in range(2))
    for _ in range(3):
        pseudo(torch.randn(6, 3))
    other.load_state_dict(pseudo.state_dict())
    logits = torch.randn(6, 3)
    assert torch.equal(pseudo(logits).counts, other(logits).counts)
    assert all(torch.equal(a, b) for a, b in zip(pseudo.buffers(), other.buffers(), strict=True))


def _process(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(minutes=10))
    torch.save(_two_steps(rank), folder / f"{rank}.pt")
    dist.destroy_process_group()


def _two_steps(rank: int | None) -> dict[str, torch.Tensor]:
    """Of one process's half of each batch, or of all of it."""
    pseudo = PseudoLabels(torch.full((3,), 1 / 3), torch.tensor([0.2, 0.3, 0.5]), "adaptive", 0.5)
    generator, parts = torch.Generator().manual_seed(1), []
    for _ in range(2):
        logits = 3 * torch.randn(8, 3, generator=generator)
        parts.append(pseudo(logits if rank is None else logits[4 * rank : 4 * rank + 4]).labels)
    return {**pseudo.state_dict(), "labels": torch.stack(parts, 1)}


def test_two_processes_have_the_running_means_of_one_with_the_whole_batch(tmp_path: Path) -> None:
    multiprocessing.spawn(_process, (tmp_path,), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    whole = _two_steps(None)
    assert torch.equal(torch.cat([first.pop("labels"), second.pop("labels")]), whole.pop("labels"))
    for name, value in whole.items():
        torch.testing.assert_close(first[name], value, msg=name)
        assert torch.equal(first[name], second[name]), name
