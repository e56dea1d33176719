"""How detectors are built: the coreset by brute force, the bank that fits, trimming of a contaminated pool, the draw of features."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.errors import RecipeError
from edgekit.files import sha256
from edgekit.recipe import dump
from edgekit.train.detect import coreset
from edgekit.train.detect.coreset import bank_size, greedy_coreset, nearest_of, projected
from edgekit.train.detect.gaussians import draw_channels
from edgekit.train.detect.trimming import kept_images, unusual
from tests.helpers import anomalies


def naive_coreset(patches: np.ndarray, count: int, first: int) -> list[int]:
    """Greedy k-center from its definition: each time, every distance to every chosen patch is computed again."""
    chosen = [first]
    while len(chosen) < count:
        nearest = [min(np.linalg.norm(p - patches[c]) for c in chosen) for p in patches]
        chosen.append(int(np.argmax(nearest)))
    return chosen


@pytest.mark.parametrize("seed", range(5))
def test_the_coreset_is_that_of_brute_force(seed: int) -> None:
    patches = np.random.default_rng(seed).normal(size=(60, 5)).astype(np.float32)
    found = greedy_coreset(torch.from_numpy(patches), 12, seed).tolist()
    assert found == naive_coreset(patches.astype(np.float64), 12, found[0])


def test_a_coreset_ends_where_all_others_are_copies() -> None:
    patches = torch.eye(4).repeat(5, 1)
    found = greedy_coreset(patches, 10, 0)
    assert len(found) == len(patches[found].unique(dim=0)) == 4


def test_a_projection_keeps_distances() -> None:
    patches = torch.randn(50, 600, generator=torch.Generator().manual_seed(0))
    small = projected(patches, 0)
    assert small.shape == (50, 128)
    ratio = torch.pdist(small) / torch.pdist(patches)
    assert 0.9 < float(ratio.mean()) < 1.1
    assert float(ratio.std()) < 0.15  # about 1 / sqrt(2 * 128)


def test_neighbors_are_the_nearest_itself_first() -> None:
    bank = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    order = np.argsort(np.linalg.norm(bank.numpy()[:, None] - bank.numpy(), axis=2), axis=1)[:, :4]
    np.testing.assert_array_equal(nearest_of(bank, 4).numpy(), order)


def test_a_bank_that_does_not_fit_says_which_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreset, "memory_bytes", lambda key: 10_000_000)
    assert bank_size(0.005, 100_000, 384, 784) == 500
    with pytest.raises(RecipeError, match="a bank of 10,000 patches") as refused:
        bank_size(0.1, 100_000, 384, 784)
    hint = refused.value.hint or ""
    fits = float(hint.removeprefix("set it to ").split()[0])
    assert bank_size(fits, 100_000, 384, 784) == round(fits * 100_000)
    with pytest.raises(RecipeError):
        bank_size(fits + 0.0005, 100_000, 384, 784)
    with pytest.raises(RecipeError) as counted:
        bank_size(50_000, 100_000, 384, 784)
    assert bank_size(int((counted.value.hint or "").removeprefix("set it to ").split()[0]), 100_000, 384, 784)


def test_a_bank_without_a_stated_size_suits_few_and_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [bank_size("auto", patches, 152, 256) for patches in (900, 32_768, 500_000, 10_000_000)] == [
        900,
        2000,
        5000,
        10_000,
    ]
    monkeypatch.setattr(coreset, "memory_bytes", lambda key: 10_000_000)
    with pytest.raises(RecipeError, match=r"anomaly.coreset is auto: a bank of 2,000 patches") as refused:
        bank_size("auto", 32_768, 384, 784)
    fits = int((refused.value.hint or "").removeprefix("set it to ").split()[0])
    assert bank_size(fits, 32_768, 384, 784) == fits


def test_trimming_finds_the_images_that_are_unlike_the_others() -> None:
    """Five of a hundred images hold one odd patch; two of these are copies of each other, which must not vouch for each other."""
    random = np.random.default_rng(0)
    patches = random.normal(size=(100, 16, 8))
    for image, kind in zip(range(5), (0, 0, 1, 2, 3), strict=True):
        patches[image, 5] = 12 * np.eye(8)[kind] + random.normal(size=8) * 0.01
    found = unusual(torch.from_numpy(patches).float(), 0)
    assert set(np.argsort(-found)[:5].tolist()) == set(range(5))
    assert kept_images(found, 0.05).tolist() == list(range(5, 100))
    assert kept_images(found, 0.0).tolist() == list(range(100))
    assert len(kept_images(found[:3], 0.4)) == 2


def test_features_are_drawn_from_every_level() -> None:
    drawn = draw_channels([64, 128, 256], 100, 0)
    assert sum(map(len, drawn)) == 100
    assert all(len(np.unique(channels)) == len(channels) for channels in drawn)
    assert [len(channels) for channels in drawn] == pytest.approx([14, 29, 57], abs=1)
    assert [len(channels) for channels in draw_channels([4, 64], 6, 1)] == [1, 5]
    assert [channels.tolist() for channels in draw_channels([2, 3], 100, 0)] == [[0, 1], [0, 1, 2]]


@pytest.mark.extra
@pytest.mark.parametrize("method", ["stfpm", "patchcore"])
def test_a_killed_detector_comes_out_with_the_same_bits(method: str, tmp_path: Path) -> None:
    """SIGKILL in the middle of the stage, then the same command again, against a run that nobody disturbed."""
    images = anomalies.write_set(tmp_path / "parts")
    weights = anomalies.write_weights(tmp_path / "encoder.safetensors")
    recipe = anomalies.recipe(images, weights, method=method, epochs=40, batch_size=4, trim=0.1)
    recipe = recipe.model_copy(update={"hardware": recipe.hardware.model_copy(update={"checkpoint_seconds": 0})})
    (tmp_path / "recipe.yaml").write_text(dump(recipe))

    def command(run: str) -> list[str]:
        return [sys.executable, "-m", "edgekit", "train", str(tmp_path / "recipe.yaml"), "--run", str(tmp_path / run)]

    subprocess.run(command("whole"), check=True, capture_output=True)
    process = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stage = tmp_path / "killed" / "anomaly"
    mark = stage / ("last.ckpt" if method == "stfpm" else "started.json")
    while process.poll() is None and not mark.exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the stage ended before it could be killed"
    assert not (stage / "stage.json").exists()
    done = subprocess.run(command("killed"), check=True, capture_output=True, text=True)
    if method == "stfpm":
        assert "anomaly: resumes from step" in done.stderr
    for name in ("model.safetensors", "model.json", "trimmed.csv"):
        assert sha256(stage / name) == sha256(tmp_path / "whole" / "anomaly" / name), name
