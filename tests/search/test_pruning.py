"""Pruning to a budget: which channels go, which network is pruned, and a whole search that prunes one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import edgekit
from edgekit.bundle import Bundle
from edgekit.models.classifier import Classifier
from edgekit.recipe import Architecture, load
from edgekit.result import Pruning, Search
from edgekit.run import Run
from edgekit.search import pruning
from edgekit.search.budget import parse_budgets
from edgekit.search.candidates import Candidate
from edgekit.search.channel_pruning import NotPrunable, check_prunable, pruned, write_student
from edgekit.search.measure import MeasuredBundle, MeasuredVariant
from edgekit.search.pruning import PruningOutcome, larger_neighbors
from edgekit.tasks import DEFAULT
from edgekit.text import counted
from tests.search.test_search import RECIPE

NORMALIZATION = (0.5, 0.25)


@pytest.fixture
def torch_pruning() -> None:
    pytest.importorskip("torch_pruning", reason="finds which channels depend on each other")


def classifier(name: str, size: int = 32, **keys: object) -> Classifier:
    torch.manual_seed(0)
    model = Classifier.build(Architecture.model_validate({"name": name, **keys}), size, list("abc"), [])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics and scales of their own, so that a wrong channel shows
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("resnet10", {"width": 0.25}),
        ("resnet14", {"width": 0.25}),
        ("timm:lcnet_050", {}),
        ("timm:mobilenetv3_small_050", {}),
        ("torchvision:squeezenet1_1", {}),
        ("timm:regnetx_002", {}),
    ],
)
def test_a_pruned_network_is_built_again_with_the_same_outputs(
    name: str, keys: dict[str, object], tmp_path: Path, torch_pruning: None
) -> None:
    model = classifier(name, **keys)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    sizes = []
    for share in (0.2, 0.6):
        found = pruned(model, share, model)
        # Builds the network from its description and compares the outputs, which it refuses to differ.
        written = write_student(found, model.architecture, tmp_path / "student.safetensors", 32, NORMALIZATION)
        assert written.channels == found.channels
        sizes.append(found.parameters)
    assert sizes[1] < sizes[0] < sum(p.numel() for p in model.encoder.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "a copy is pruned"


def test_the_channels_of_least_weight_go_and_the_others_stay(torch_pruning: None) -> None:
    model = classifier("resnet10", width=0.25)
    layer, norm = model.encoder.network.layer1[0].conv1, model.encoder.network.layer1[0].bn1
    follower = model.encoder.network.layer1[0].conv2
    weak = [1, 2, 6, 7, 8, 11, 14, 15]
    with torch.no_grad():
        for tensor in (layer.weight, norm.weight, norm.bias):
            tensor[weak] *= 1e-3
        follower.weight[:, weak] *= 1e-3
    strong = [channel for channel in range(16) if channel not in weak]
    found = pruned(model, 8 / 480, model)  # of the eight groups of channels that go together
    assert found.channels == {"layer1.0.conv1": 8}
    left = found.model.encoder.network.layer1[0]
    assert torch.equal(left.conv1.weight, layer.weight[strong])
    assert torch.equal(left.bn1.running_mean, norm.running_mean[strong])
    assert torch.equal(left.conv2.weight, follower.weight[:, strong])
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(found.model.embed(images), model.embed(images), rtol=0.01, atol=0.01)


def test_groups_keep_a_number_of_channels_that_kernels_compute_without_a_rest(torch_pruning: None) -> None:
    for share in (0.1, 0.3, 0.5):
        model = classifier("resnet10", width=0.5)
        left = pruned(model, share, model).channels
        whole = {name: module.out_channels for name, module in model.encoder.network.named_modules() if name in left}
        assert left
        assert all(left[name] % 16 == 0 and left[name] < whole[name] for name in left)
    narrow = classifier("resnet10", width=0.25)
    assert 8 in pruned(narrow, 0.6, narrow).channels.values(), "of 16 channels"


def test_a_network_whose_graph_is_not_understood_is_one_line(torch_pruning: None) -> None:
    with pytest.raises(NotPrunable, match=r"^torchvision:shufflenet_v2_x0_5 cannot be pruned: "):
        check_prunable(Architecture(name="torchvision:shufflenet_v2_x0_5"), 32, list("abc"))
    check_prunable(Architecture(name="resnet10", width=0.25), 16, list("abc"))


def measured(p50: float) -> MeasuredBundle:
    return MeasuredBundle([MeasuredVariant("onnx-fp32", "onnxruntime", "fp32", 1000, {"p50": p50})])


def test_the_winner_with_more_channels_comes_first_then_the_nearest_to_the_budget() -> None:
    own, wide, wider, other, far, small = (
        Candidate(Architecture(name=name, width=width), 32)
        for name, width in (("resnet10", 0.5), ("resnet10", 0.75), ("resnet10", 1.0), ("resnet18", 0.5), ("resnet34", 1), ("resnet14", 0.25))
    )  # fmt: skip
    times = {own: 3.0, wide: 5.5, wider: 9.0, other: 5.1, far: 20.0, small: 1.0}
    listed = {candidate.name: measured(p50) for candidate, p50 in times.items()}
    limits = parse_budgets(["p50 < 5 ms"])
    assert larger_neighbors(list(times), listed, limits, own) == [wide, wider, other, far]
    assert larger_neighbors(list(times), listed, limits, None) == [other, wide, wider, far]
    assert larger_neighbors(list(times), listed, limits, replace(own, image_size=64)) == []


def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: str) -> Search:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pruning, "_PROBES", 1)
    Path("recipe.yaml").write_text(f"# how it began\n{yaml.safe_dump(RECIPE)}")
    result = edgekit.search(
        "recipe.yaml", budget=budget, candidate={"name": "resnet10", "width": [0.125, 0.25], "stem": "strided"}, target="onnx",
        precision="fp32", threads=1, seconds=0.02, max_drop=100, prune=True,
    )  # fmt: skip
    assert isinstance(result.measurement, Search)
    return result.measurement


@pytest.mark.slow
@pytest.mark.extra
def test_a_larger_network_is_pruned_to_the_budget_and_compared_with_the_winner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch_pruning: None
) -> None:
    found = search(tmp_path, monkeypatch, "size < 700 kB")
    record, folder = found.pruning, Path("runs/tiny-search")
    assert record is not None
    assert (record.candidate, record.against) == ("resnet10-w0.25-strided-16", "resnet10-w0.125-strided-16")
    assert [step.removed for step in record.steps] == sorted(step.removed for step in record.steps)
    assert record.steps[-1].variants[0].bytes < 700_000
    assert record.score is not None
    assert record.against_score is not None
    assert record.kept == (record.score > record.against_score)
    assert found.winner == (record.name if record.kept else record.against)
    assert ("does not help" in record.outcome) != record.kept
    in_all = found.full_epochs + sum(step.epochs for step in record.steps)  # type: ignore[operator]
    assert record.epochs == in_all
    assert f"after {in_all} epochs in all" in record.outcome
    assert record.against_epochs in {found.full_epochs, in_all}, (
        "a better pruned network is compared with the winner after as many epochs"
    )
    assert record.against_epochs == in_all or not record.kept
    assert f"after {counted(record.against_epochs, 'epoch')} at" in record.outcome
    assert record.outcome in (folder / "search.html").read_text()
    assert record.name is not None

    # The run of the pruned network is one like any other: it loads, exports and answers, and its student is the one described.
    path = folder / "full" / record.name
    with monkeypatch.context() as without:
        without.setitem(__import__("sys").modules, "torch_pruning", None)
        network = edgekit.Run(path).student()
        assert edgekit.train(path / "recipe.yaml", run=path, until="distill").path == path
    listed = found.candidate(record.name)
    assert listed is not None
    assert network.network.architecture.channels == listed.student["channels"]
    student = load(folder / "winner.yaml").distill.student
    assert (student.channels is not None) == record.kept

    # Whoever wins, the bundle is that of `edgekit export`: with calibrated probabilities and the rule for unknown.
    assert found.won() is not None
    exported = Bundle.open(folder / found.won().run / "export").manifest
    assert exported.task == DEFAULT
    by_hand = edgekit.export(
        Run(folder / found.won().run), target="onnx", precision="fp32", output="by-hand", max_drop=100
    ).manifest
    assert exported.confidence is not None
    assert by_hand.confidence is not None
    assert exported.confidence.rule == by_hand.confidence.rule == "distance"
    for value in ("temperature", "threshold", "false_abstain"):
        assert getattr(exported.confidence, value) == pytest.approx(getattr(by_hand.confidence, value), rel=1e-4)


@pytest.mark.slow
@pytest.mark.extra
def test_where_nothing_fits_the_nearest_is_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch_pruning: None
) -> None:
    found = search(tmp_path, monkeypatch, "size < 200 kB")
    assert found.pruning is not None
    assert found.pruning.candidate == "resnet10-w0.125-strided-16"
    assert found.winner == found.pruning.name
    assert "nothing else is within the budget" in found.pruning.outcome
    assert found.nearest == ""


def test_an_outcome_is_read_back_from_the_storage() -> None:
    made = PruningOutcome(Pruning(outcome="nothing was pruned", skipped=["x cannot be pruned"]))
    assert PruningOutcome.from_content(made.content()) == made


def test_without_torch_pruning_it_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch_pruning" else real(name, *rest)
    )
    with pytest.raises(edgekit.EdgekitError, match=r"torch_pruning is not installed.*extra \[prune\]"):
        edgekit.search({"data": {"labeled": "digits"}}, budget="size < 1 MB", prune=True, run=tmp_path / "search")
    assert not (tmp_path / "search").exists()
