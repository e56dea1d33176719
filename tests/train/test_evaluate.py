"""kNN, linear probe and few-shot against naive versions, monitoring that leaves the training as it is, and the protocol beside every number."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from edgekit import recipe as recipes
from edgekit import terms
from edgekit.cli.findings import calibration_lines
from edgekit.data.images import ImageSet
from edgekit.errors import DataError
from edgekit.files import sha256
from edgekit.result import Result
from edgekit.run import Run
from edgekit.shares import percent
from edgekit.train.evaluate import knn, linear_probe, neighbors_for, outputs
from edgekit.train.evaluate.answers import answers_of
from edgekit.train.evaluate.few_shot import Shots, few_shot, few_shot_scores, logistic, nearest_centroid
from edgekit.train.evaluate.probes import linear_model
from edgekit.train.evaluate.scores import calibration_of
from edgekit.train.stages.pipeline import train
from tests.helpers import recipe_changes
from tests.helpers.recipe_changes import changed

TINY = changed(
    recipe_changes.TINY,
    finetune={"epochs": 1, "batch_size": 50},
    distill__epochs=1,
    distill__labeled_weight=0.0,
    distill__optimizer={"warmup_epochs": 0},
    supervised={"enabled": False},
    hardware={"accelerator": "cpu", "threads": 1},
)


def naive_knn(
    bank: np.ndarray, labels: np.ndarray, queries: np.ndarray, classes: int, k: int, temperature: float
) -> list[int]:
    """InstDisc's section 3.4, one query at a time."""
    predictions = []
    for query in queries:
        cosines = [float(b @ query / (np.linalg.norm(b) * np.linalg.norm(query))) for b in bank]
        votes = [0.0] * classes
        for i in sorted(range(len(bank)), key=lambda i: -cosines[i])[:k]:
            votes[labels[i]] += math.exp(cosines[i] / temperature)
        predictions.append(int(np.argmax(votes)))
    return predictions


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (7, 0.1), (30, 1.0)])
def test_knn_equals_the_naive_version(k: int, temperature: float) -> None:
    rng = np.random.default_rng(0)
    bank, queries, labels = rng.normal(size=(60, 8)), rng.normal(size=(25, 8)), rng.integers(0, 4, 60)
    ours = knn(torch.from_numpy(bank), torch.from_numpy(labels), torch.from_numpy(queries), 4, k, temperature)
    assert ours.tolist() == naive_knn(bank, labels, queries, 4, k, temperature)


def test_neighbors_are_two_hundred_or_half_a_class_of_a_small_bank() -> None:
    assert [neighbors_for(n, 10) for n in (50_000, 4000, 180, 12)] == [200, 200, 9, 1]


def test_the_linear_probe_separates_what_is_linear_and_not_what_is_random() -> None:
    torch.manual_seed(0)
    labels = torch.arange(300) % 3
    centers = 5 * torch.randn(3, 10)
    features = centers[labels] + torch.randn(300, 10)
    assert (linear_probe(features[:200], labels[:200], features[200:]) == labels[200:]).float().mean() > 0.95
    noise = torch.randn(300, 10)
    assert (linear_probe(noise[:200], labels[:200], noise[200:]) == labels[200:]).float().mean() < 0.55


class Counting(nn.Module):
    """Says in which mode it was called; its frozen part must stay in evaluation mode whatever happens around it."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.BatchNorm1d(3).eval()
        self.trained = nn.BatchNorm1d(3)
        self.modes: list[bool] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.modes.append(self.training or self.trained.training)
        return self.trained(self.frozen(images.mean((2, 3))))


def test_outputs_are_of_evaluation_mode_and_leave_every_mode_and_statistic_alone() -> None:
    model = Counting().train()
    model.frozen.eval()
    images = np.random.default_rng(0).integers(0, 256, (1100, 4, 4, 3), dtype=np.uint8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    found = outputs(model, images, 0.5, 0.25, torch.device("cpu"))
    assert found.shape == (1100, 3)
    assert model.modes == [False] * 3
    assert (model.training, model.trained.training, model.frozen.training) == (True, True, False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def history(run: Path) -> list[dict[str, str]]:
    with open(run / "pretrain" / "history.csv", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "monitored"
    train(recipes.parse(changed(TINY, monitor={"every": 2, "linear": True})), Run(folder), until="pretrain")
    return folder


def test_monitoring_writes_its_numbers_where_it_was_asked_to(monitored: Path) -> None:
    rows = history(monitored)
    assert [bool(row["knn"]) for row in rows] == [False, True, True]  # every second epoch, and the last one
    assert [bool(row["linear"]) for row in rows] == [False, True, True]
    metrics = Run(monitored).require("pretrain").metrics
    assert float(rows[-1]["knn"]) == metrics["knn"]  # the same protocol as after the training
    assert 0.1 < float(rows[-1]["linear"]) <= 1


def test_a_monitored_training_ends_with_the_same_bits(monitored: Path, tmp_path: Path) -> None:
    train(recipes.parse(TINY), Run(tmp_path / "plain"), until="pretrain")
    plain = history(tmp_path / "plain")
    assert "knn" not in plain[0]
    name = Path("pretrain") / "model.safetensors"
    assert sha256(tmp_path / "plain" / name) == sha256(monitored / name)
    assert [row["loss"] for row in plain] == [row["loss"] for row in history(monitored)]


def test_a_change_of_the_monitor_trains_nothing_again(monitored: Path) -> None:
    reports = []
    train(recipes.parse(changed(TINY, monitor__every=1)), Run(monitored), until="pretrain", on_stage=reports.append)
    assert [report.outcome for report in reports] == ["skipped", "skipped"]


PROCESS = """
import sys, torch
from torch import distributed as dist
from edgekit import recipe as recipes
from edgekit import terms
from edgekit.data.splits import load_splits
from edgekit.models.encoders import build_encoder
from edgekit.train.evaluate.online import online
rank, rendezvous = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
recipe = recipes.load(sys.argv[3])
torch.manual_seed(rank)
encoder = build_encoder(recipe.pretrain.encoder, recipe.data.image_size)
calls = []
encoder.register_forward_hook(lambda *_: calls.append(1))
print(online(encoder, load_splits(recipe.data), recipe)(), len(calls))
"""


@pytest.mark.slow
def test_of_two_processes_the_first_measures_and_both_have_its_numbers(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(changed(TINY, monitor={"every": 1})))
    meeting = str(tmp_path / "rendezvous")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(rank), meeting, str(path)], stdout=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    said = [process.communicate()[0].strip().rpartition(" ") for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert said[0][0] == said[1][0] != ""
    assert int(said[0][2]) > 0
    assert int(said[1][2]) == 0


def bank_of(labels: np.ndarray) -> ImageSet:
    count = len(labels)
    images = np.zeros((count, 4, 4, 3), np.uint8)
    return ImageSet(images, [f"{i}.png" for i in range(count)], [f"{i:032x}" for i in range(count)], labels)


def naive_centroid(support: np.ndarray, labels: np.ndarray, queries: np.ndarray, classes: int) -> list[int]:
    unit = support / np.linalg.norm(support, axis=1, keepdims=True)
    centers = [unit[labels == c].mean(0) for c in range(classes)]
    return [int(np.argmax([q @ c / np.linalg.norm(c) for c in centers])) for q in queries]


def test_the_nearest_centroid_equals_the_naive_version() -> None:
    rng = np.random.default_rng(0)
    support, queries, labels = rng.normal(size=(40, 6)), rng.normal(size=(30, 6)), np.arange(40) % 4
    found = nearest_centroid(*(torch.from_numpy(x) for x in (support, labels, queries)), 4)
    assert found.tolist() == naive_centroid(support, labels, queries, 4)


def blobs(seed: int = 0) -> tuple[torch.Tensor, ImageSet, torch.Tensor, torch.Tensor]:
    """Features of 90 labeled images and of 300 test images, three classes with some overlap."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(3, 8, generator=generator)
    labels, truth = torch.arange(90) % 3, torch.arange(300) % 3
    known = centers[labels] + torch.randn(90, 8, generator=generator)
    queries = centers[truth] + torch.randn(300, 8, generator=generator)
    return known, bank_of(labels.numpy()), queries, truth


def test_many_classes_of_few_images_warn_of_nothing() -> None:
    """scikit-learn took 40 classes of one image each for a regression, and said so for every fit."""
    features, labels = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), torch.arange(40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        linear_model(features, labels)
        assert logistic(features, labels, features).shape == (40,)


def test_more_shots_are_better_and_vary_less_and_draws_repeat() -> None:
    known, bank, queries, truth = blobs()
    found = few_shot(known, bank, queries, truth, ["a", "b", "c"], [1, 5, 20], 20, seed=0)
    for method in ("centroid", "logistic"):
        one, five, twenty = (shots for shots in found if shots.method == method)
        assert 0.34 < one.accuracies.mean() < five.accuracies.mean() < twenty.accuracies.mean()
        assert one.accuracies.std() > twenty.accuracies.std()
    again = few_shot(known, bank, queries, truth, ["a", "b", "c"], [1, 5, 20], 20, seed=0)
    assert all(np.array_equal(a.accuracies, b.accuracies) for a, b in zip(found, again, strict=True))
    other = few_shot(known, bank, queries, truth, ["a", "b", "c"], [1, 5, 20], 20, seed=1)
    assert not np.array_equal(found[0].accuracies, other[0].accuracies)
    # Draws do not depend on which other numbers of shots were asked for.
    alone = few_shot(known, bank, queries, truth, ["a", "b", "c"], [5], 20, seed=0)
    assert np.array_equal(
        alone[0].accuracies, next(s for s in found if (s.method, s.shots) == ("centroid", 5)).accuracies
    )


def test_the_interval_is_students() -> None:
    values = np.array([0.5, 0.6, 0.7, 0.6])
    low, high = Shots("centroid", 5, values).interval()
    half = 3.182446 * values.std(ddof=1) / 2  # t of 3 degrees of freedom at 97.5 %
    assert (low, high) == (pytest.approx(0.6 - half, abs=1e-6), pytest.approx(0.6 + half, abs=1e-6))


def test_a_few_shot_score_says_how_it_was_measured() -> None:
    known, bank, queries, truth = blobs()
    scores = few_shot_scores(known, bank, queries, truth, ["a", "b", "c"], [5], 10, 3, "bank: probe set, 90 images")
    assert [(s.metric, s.shots) for s in scores] == [("centroid", 5), ("logistic", 5)]
    for score in scores:
        low, high = score.interval or (1.0, 0.0)
        assert low <= score.value <= high
        for words in ("3-way 5-shot", "10 draws, seed 3", "95 % interval", "bank: probe set, 90 images"):
            assert words in score.protocol


def test_more_shots_than_a_class_has_are_refused() -> None:
    known, bank, queries, truth = blobs()
    with pytest.raises(DataError, match=r"--few-shot 31: the class a has only 30 images.*data\.probe"):
        few_shot(known, bank, queries, truth, ["a", "b", "c"], [1, 31], 10, 0)


def test_the_command_prints_every_number_with_its_protocol(
    monitored: Path, edgekit: Callable[..., tuple[int, str, str]]
) -> None:
    train(recipes.parse(TINY), Run(monitored))
    code, text, errors = edgekit("evaluate", monitored, "--few-shot", "1,5", "--draws", "5", "--json")
    assert code == 0, errors
    scores = json.loads(text)["measurement"]["scores"]
    assert [(s["model"], s["metric"], s["shots"]) for s in scores] == [
        ("encoder", "knn", None), ("encoder", "linear", None), ("encoder", "centroid", 1), ("encoder", "logistic", 1),
        ("encoder", "centroid", 5), ("encoder", "logistic", 5), ("teacher", "top1", None), ("teacher", "top5", None),
        ("student", "top1", None), ("student", "top5", None),
    ]  # fmt: skip
    assert all("weights of the last epoch" in s["protocol"] for s in scores)
    code, text, errors = edgekit("evaluate", monitored, "--few-shot", "2", "--draws", "5", "--json")
    assert code == 0, errors
    kept = json.loads(text)["measurement"]["scores"]
    assert [s["shots"] for s in kept] == [None, None, 1, 1, 2, 2, 5, 5, None, None, None, None]
    assert [s for s in kept if s["shots"] != 2] == scores
    for wrong in ("0", "1,many", "-3"):
        code, _, errors = edgekit("evaluate", monitored, f"--few-shot={wrong}")
        assert code == 2
        assert "1,5,10" in errors
    code, _, errors = edgekit("evaluate", monitored, "--few-shot", "500")
    assert (code, errors.count("error: ")) == (2, 1)
    assert "images in the labeled bank" in errors


def test_the_table_fits_eighty_columns_with_each_protocol_once(
    edgekit: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Class names longer than a line, and many numbers of shots."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    names = ["a class with a name that is " + "very " * 20 + "long", "x" * 90, "short"]
    for i, (image, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        if digit < 3:
            path = tmp_path / "images" / names[digit] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 15.9).astype(np.uint8)).save(path)
    content = changed(TINY, data={"labeled": str(tmp_path / "images"), "image_size": 8, "labels": 10, "probe": 0.3})
    small = {"name": "resnet10", "width": 0.125, "stem": "cifar"}
    content = changed(
        content,
        pretrain__encoder=small,
        distill__student=small,
        supervised__enabled=True,
        supervised__epochs=1,
        supervised__search=False,
    )
    content = changed(
        content, pretrain__batch_size=64, distill__batch_size=64, supervised__optimizer={"warmup_epochs": 0}
    )
    train(recipes.parse(content), Run(tmp_path / "run"))
    monkeypatch.setenv("COLUMNS", "200")
    code, text, errors = edgekit("evaluate", tmp_path / "run", "--few-shot", "1,2,3,4,5,6,7,8,9,10", "--draws", "100")
    assert code == 0, errors
    lines = [line for line in text.splitlines() if str(tmp_path) not in line]  # a path stays whole
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert text.count("nearest centroid by cosine") == 1
    assert text.count("single center view, weights of the last epoch") == 1
    assert "10-shot logistic" in text
    assert "student minus the same network from scratch: " in text
    assert "[1] frozen encoder" in text
    truth = Result.read(tmp_path / "run/evaluate/evaluation.json").measurement
    counts = json.loads((tmp_path / "run/data/splits.json").read_text())["test"]["per_class"].values()
    assert truth.guessing == max(counts) / sum(counts)
    assert f"guessing the most frequent class: {percent(truth.guessing)}" in text
    explained = [term.name for term in terms.used(text) if f"\n{term.name}: {term.meaning[:20]}" in text]
    assert explained == [
        "top-1",
        "kNN",
        "nearest centroid",
        "logistic regression",
        "linear probe",
        "ECE",
        "NLL",
    ]


def test_probabilities_of_answers_are_those_after_the_temperature() -> None:
    logits = torch.tensor([[4.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    images = ImageSet(np.zeros((2, 4, 4, 3), np.uint8), ["a", "b"], ["a", "b"], np.array([0, 1]))
    answers = answers_of({"student": logits, "teacher": logits}, images, {"student": 2.0})
    assert answers.probability["student"] == pytest.approx((logits / 2).softmax(1).amax(1).numpy())
    assert answers.probability["teacher"] == pytest.approx(logits.softmax(1).amax(1).numpy())
    assert answers.predicted["student"].tolist() == answers.predicted["teacher"].tolist() == [0, 1]


def test_the_temperature_of_the_probe_set_is_measured_on_the_test_set() -> None:
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(800, 4, generator=generator) * 2
    labels = torch.multinomial(plain.softmax(1), 1, generator=generator)[:, 0]
    logits = 4 * plain  # four times too sure
    found = calibration_of("student", logits[:400], labels[:400], logits[400:], labels[400:])
    assert (found.model, found.probe, found.samples) == ("student", 400, 400)
    assert 2.5 < found.temperature < 6
    assert found.ece[1] < found.ece[0] / 2
    likelihoods = [torch.nn.functional.cross_entropy(logits[400:] / t, labels[400:]) for t in (1.0, found.temperature)]
    assert found.nll == pytest.approx([float(value) for value in likelihoods], rel=1e-4)
    (first, *_) = calibration_lines([found])
    assert first.startswith(f"student: temperature {found.temperature:.2f} of 400 probe images; ECE ")
