"""The accuracy search: each strategy against a naive computation, and the whole search on a network whose plain INT8 loses most accuracy."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto
from torch import nn

from edgekit.export import served, tensorrt
from edgekit.export.half import simulated
from edgekit.export.inputs import ExportOptions, Sources
from edgekit.export.served import Served
from edgekit.models.pixels import PixelClassifier
from edgekit.onnx_graph.build import export_onnx
from edgekit.quantize import blocks, qdq, search
from edgekit.quantize.budget import Budget
from edgekit.quantize.calibration import Calibration
from edgekit.quantize.correct import correct
from edgekit.quantize.equalize import equalize, rescale
from edgekit.quantize.fidelity import Fidelity, compare, run
from edgekit.quantize.layers import (
    EqualizablePair,
    LayerGraph,
    by_input_channel,
    depthwise,
    layer_pairs,
    output_axis,
    streams,
)
from edgekit.quantize.qdq import FULL, REDUCED, UNSIGNED, Scheme, quantize_onnx
from edgekit.quantize.qdq_lint import lint
from edgekit.quantize.quantizer import QuantizationConfig
from edgekit.quantize.ranges import METHODS, observing
from edgekit.quantize.recover import quantized_layers, recover
from edgekit.quantize.search import AccuracySearch, Candidate, search_accuracy
from edgekit.quantize.sensitivity import excluding, fewest, quantizable, restore_float_inputs
from edgekit.tasks.classification import CLASSIFICATION
from tests.helpers import exported
from tests.helpers.fixed_network import clear_reference, fixed_network


def nothing(steps: int = 1, note: str = "") -> None:
    """No progress is shown."""


class Separable(nn.Module):
    """Every kind of pair: convolutions with ReLU, ReLU6 and pooling between them, a depthwise one, and LayerNorm before Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.deep = nn.Conv2d(3, 12, 3, 2, 1), nn.Conv2d(12, 12, 3, 1, 1, groups=12)
        self.project, self.grouped = nn.Conv2d(12, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.norm, self.hidden, self.head = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 10)
        with torch.no_grad():
            self.norm.weight.uniform_(0.2, 3)
            self.expand.weight.mul_(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = nn.functional.relu6(self.expand(images))
        x = nn.functional.max_pool2d(nn.functional.relu(self.deep(x)), 2)
        x = self.grouped(nn.functional.relu(self.project(x))).mean((2, 3))
        return self.head(nn.functional.gelu(self.hidden(self.norm(x))))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return exported.splits().pool.center_crop(16).images[:60]


@pytest.fixture(scope="module")
def separable(tmp_path_factory: pytest.TempPathFactory) -> ModelProto:
    path = tmp_path_factory.mktemp("separable") / "model.onnx"
    torch.manual_seed(0)
    export_onnx(PixelClassifier(Separable().eval(), 0.5, 0.25), path, image_size=16, classes=list("0123456789"))
    return onnx.load(path)


def logits_of(model: ModelProto, path: Path, images: np.ndarray) -> np.ndarray:
    onnx.save(model, path)
    return run("onnxruntime", path, images, CLASSIFICATION)["logits"]


def imbalanced(model: ModelProto, spread: float, only: list[int] | None = None) -> ModelProto:
    """The same function, with channels between layers scaled by up to exp(+-spread): unchanged in float, useless in INT8."""
    copy = ModelProto()
    copy.CopyFrom(model)
    graph, random = LayerGraph(copy), np.random.default_rng(0)
    for i, pair in enumerate(p for p in layer_pairs(graph) if p.ceiling is None):
        if only is None or i in only:
            name = graph.weight(pair.second[0])
            assert name is not None
            channels = len(by_input_channel(pair.second[0], graph.value(name)))
            rescale(graph, pair, np.exp(random.uniform(-spread, spread, channels)).astype(np.float32))
    return copy


@pytest.mark.parametrize("by", ["weights", "activations"])
def test_an_equalized_graph_computes_the_same(
    separable: ModelProto, images: np.ndarray, tmp_path: Path, by: str
) -> None:
    before = imbalanced(separable, 3)
    expected = logits_of(separable, tmp_path / "a.onnx", images)
    np.testing.assert_allclose(logits_of(before, tmp_path / "b.onnx", images), expected, atol=1e-5)
    after, count = equalize(before, images, by, nothing)
    assert count == (4 if by == "activations" else 3)
    np.testing.assert_allclose(logits_of(after, tmp_path / "c.onnx", images), expected, atol=1e-5)
    graph = LayerGraph(after)
    for pair in layer_pairs(graph):
        first, second = (graph.value(str(graph.weight(node))) for node in (pair.first[0], pair.second[0]))
        made = [np.abs(np.take(first, i, output_axis(pair.first[0]))).max() for i in range(len(first))]
        read = [_what_reads(pair, second, i) for i in range(len(made))]
        if by == "weights" and pair.ceiling is None:
            np.testing.assert_allclose(made, read, rtol=0.01)
        if by == "activations" and depthwise(pair.second[0], second):
            (seen,) = observing(after, list(pair.tensors)).run(list(pair.tensors), {"image": images})
            peaks = np.abs(seen).max(axis=(0, 2, 3))
            assert (peaks > 5.9).all()  # ReLU6: every channel reaches up to the ceiling, none over it


class Residual(nn.Module):
    """Two streams: one with a ReLU after its sums and a projection to another resolution, as in ResNet; one of linear blocks, as in MobileNetV2."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.skip = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 24, 1, 2)
        self.a1, self.a2 = nn.Conv2d(16, 20, 3, padding=1), nn.Conv2d(20, 16, 3, padding=1)
        self.b1, self.b2 = nn.Conv2d(16, 20, 3, 2, 1), nn.Conv2d(20, 24, 3, padding=1)
        self.c1, self.c2 = nn.Conv2d(24, 30, 1), nn.Conv2d(30, 24, 1)
        self.last, self.head = nn.Conv2d(24, 16, 1), nn.Linear(16, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        relu = nn.functional.relu
        x = relu(self.stem(images))
        x = relu(x + self.a2(relu(self.a1(x))))
        x = self.skip(x) + self.b2(relu(self.b1(x)))
        x = x + self.c2(relu(self.c1(x)))
        return self.head(relu(self.last(x)).mean((2, 3)))


def test_one_factor_a_channel_goes_through_a_residual_stream(images: np.ndarray, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "model.onnx"
    export_onnx(PixelClassifier(Residual().eval(), 0.5, 0.25), path, image_size=16, classes=list("0123456789"))
    model, random = onnx.load(path), np.random.default_rng(0)
    expected = logits_of(model, path, images)
    graph = LayerGraph(model)
    first, second = streams(graph)
    assert [len(first.first), len(first.second)] == [2, 3]  # stem and a2; a1, b1 and the projection
    assert [len(second.first), len(second.second)] == [3, 2]  # the projection, b2 and c2; c1 and the last
    for stream, channels in ((first, 16), (second, 24)):
        rescale(graph, stream, np.exp(random.uniform(-4, 4, channels)).astype(np.float32))
    np.testing.assert_allclose(logits_of(model, path, images), expected, atol=1e-4)
    by_weights, count = equalize(model, images, "weights", nothing)
    assert count == 3 + 2  # what stands within the blocks, and the streams
    np.testing.assert_allclose(logits_of(by_weights, path, images), expected, atol=1e-4)
    graph = LayerGraph(by_weights)
    for stream in streams(graph):
        made = [
            np.abs(graph.value(str(graph.weight(n)))).reshape(len(graph.value(str(graph.weight(n)))), -1).max(1)
            for n in stream.first
        ]
        read = [np.abs(graph.value(str(graph.weight(n)))).max(axis=(0, 2, 3)) for n in stream.second]
        np.testing.assert_allclose(np.max(made, axis=0), np.max(read, axis=0), rtol=0.01)
    by_activations, _ = equalize(model, images, "activations", nothing)
    np.testing.assert_allclose(logits_of(by_activations, path, images), expected, atol=1e-4)
    for stream in streams(LayerGraph(by_activations)):
        seen = observing(by_activations, list(stream.tensors)).run(list(stream.tensors), {"image": images})
        peaks = np.max([np.abs(values).max(axis=(0, 2, 3)) for values in seen], axis=0)
        assert peaks.max() / np.median(peaks) < 10  # e^8 before


def test_a_stream_that_something_else_reads_is_left_alone(tmp_path: Path) -> None:
    class Clipped(Residual):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            x = nn.functional.relu6(self.stem(images))
            return self.head((x + self.a2(nn.functional.relu(self.a1(x)))).mean((2, 3)))

    path = tmp_path / "model.onnx"
    export_onnx(PixelClassifier(Clipped().eval(), 0.5, 0.25), path, image_size=16, classes=list("0123456789"))
    assert streams(LayerGraph(onnx.load(path))) == []


def _what_reads(pair: EqualizablePair, weight: np.ndarray, channel: int) -> float:
    """The largest weight that multiplies an input channel, found one by one."""
    groups = next((a.i for a in pair.second[0].attribute if a.name == "group"), 1)
    each_in, each_out = weight.shape[1], weight.shape[0] // groups
    rows = [o for o in range(weight.shape[0]) if o // each_out == channel // each_in]
    return max(float(np.abs(weight[o, channel % each_in]).max()) for o in rows)


def test_bias_correction_makes_the_channels_means_equal(
    separable: ModelProto, images: np.ndarray, tmp_path: Path
) -> None:
    onnx.save(separable, tmp_path / "float.onnx")
    quantize_onnx(Calibration(tmp_path / "float.onnx", images, tmp_path), tmp_path / "q.onnx", REDUCED)
    quantized = onnx.load(tmp_path / "q.onnx")
    corrected = correct(separable, quantized, images, nothing)
    convolutions = [node.name for node in separable.graph.node if node.op_type == "Conv"]

    def means(model: ModelProto) -> list[np.ndarray]:
        tensors = [node.output[0] for name in convolutions for node in model.graph.node if node.name == name]
        found = observing(model, tensors).run(tensors, {"image": images})
        return [values.astype(np.float64).mean(axis=(0, 2, 3)) for values in found]

    wanted = means(separable)
    errors = {
        when: max(np.abs(m - w).max() / np.abs(w).max() for m, w in zip(means(model), wanted, strict=True))
        for when, model in (("before", quantized), ("after", corrected.model))
    }
    assert errors["before"] > 2e-3
    # Rounding what a layer reads may flip when the bias before it moves by a hair; nothing else is left.
    assert errors["after"] < 0.2 * errors["before"]
    assert corrected.after < 0.2 * corrected.before
    assert corrected.layers >= len(convolutions)


def test_fidelity_is_agreement_and_signal_to_noise() -> None:
    trained = np.array([[3, 1], [0, 2], [5, 4]], np.float32)

    def of(got: np.ndarray) -> Fidelity:
        return compare(CLASSIFICATION, {"logits": got}, {"logits": trained})

    found = of(np.array([[3, 0], [2, 0], [5, 4]], np.float32))
    assert found.agreement == pytest.approx(2 / 3)
    assert found.sqnr_db == pytest.approx(10 * np.log10(55 / 9))
    assert of(np.full((3, 2), np.nan, np.float32)).agreement == 0
    clear, noisy = Fidelity(0.90, 30.0, 256), Fidelity(0.91, 20.0, 256)
    assert clear.better_than(noisy)  # one point of 256 images is chance, ten decibels are not
    assert not clear.better_than(Fidelity(0.97, 20.0, 256))


@pytest.mark.parametrize("needed", [{0}, {3}, {1, 2}, {0, 4, 5}, {6}])
def test_the_fewest_layers_that_suffice(needed: set[int]) -> None:
    order = [f"layer {i}" for i in range(7)]
    trials: list[tuple[str, ...]] = []

    def passes(names: tuple[str, ...]) -> bool:
        trials.append(names)
        return {order[i] for i in needed} <= set(names)

    smallest = min((c for n in range(8) for c in itertools.combinations(order, n) if passes(c)), key=len)
    trials.clear()
    assert fewest(order, passes) == smallest
    assert len(trials) <= 2 * 3 + 7
    assert fewest(order, lambda names: False) is None


def sources_of(model: ModelProto, folder: Path, **changes: object) -> Sources:
    pool = exported.splits().pool.center_crop(16).images
    onnx.save(model, folder / "float.onnx")
    (folder / "out").mkdir()
    return Sources(
        float_onnx=folder / "float.onnx",
        calibration=Calibration(folder / "float.onnx", pool[:40], folder),
        reference=clear_reference(),
        options=ExportOptions(),
        folder=folder / "out",
        scratch=folder,
        unlabeled=pool[100:200],
        **changes,
    )


def onnx_backend(sources: Sources) -> Served:
    return Served("onnx", sources.quantizer, sources.reference, sources.options.bounds)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> ModelProto:
    path = tmp_path_factory.mktemp("digits") / "model.onnx"
    export_onnx(fixed_network(), path, image_size=16, classes=exported.splits().classes)
    return onnx.load(path)


def test_a_network_of_wildly_different_channels_is_brought_back(
    digits: ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "METHODS", ("minmax",))
    sources = sources_of(imbalanced(digits, 4), tmp_path)
    variant = search_accuracy(onnx_backend(sources), sources.folder)
    assert variant.quantization is not None
    first, *others = variant.quantization.tried
    assert (first.strategy, first.status) == ("calibration", "rejected")
    assert first.drop > 0.1
    assert variant.status == "verified"
    assert variant.quantization.strategy == "equalization"
    assert "equalization" in variant.note
    assert variant.drop is not None
    assert variant.drop <= 0.01
    assert max(t.unlabeled.sqnr_db for t in others) > first.unlabeled.sqnr_db + 10
    assert [t.status for t in others].count("verified") == 1
    assert all(t.seconds > 0 for t in variant.quantization.tried)
    assert (sources.folder / variant.files[0].path).is_file()


def test_the_note_says_on_which_cpus_a_scheme_is_exact(
    digits: ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = sources_of(digits, tmp_path)
    for scheme, says in ((FULL, "on x86 without one (no VNNI)"), (REDUCED, ""), (UNSIGNED, "exact on every CPU")):
        for dot_product in (True, False):  # the scheme alone decides, not the machine that it was made on
            monkeypatch.setattr(qdq, "has_int8_dot_product", lambda found=dot_product: found)
            variant = onnx_backend(sources).make(QuantizationConfig(scheme, "minmax"), sources.folder)
            assert says in variant.note
            assert bool(says) == bool(variant.note)


def test_tensorrt_uses_the_same_accuracy_search(digits: ModelProto, tmp_path: Path) -> None:
    """Its graph is simulated; the graphs for both kinds of typing are equalized, and their Q/DQ nodes are as TensorRT reads them."""
    sources = sources_of(imbalanced(digits, 6), tmp_path)
    variant = tensorrt.make("trt", "int8", sources)
    quantization = variant.quantization
    assert quantization is not None
    assert (variant.status, quantization.strategy) == ("unexecuted", "equalization")
    first = [t for t in quantization.tried if t.strategy == "calibration"]
    assert [t.configuration for t in first] == [f"signed 8-bit, {method}" for method in METHODS]
    (rejected,) = (t for t in first if t.status == "rejected")
    assert rejected.drop > 0.01
    assert variant.drop is not None
    assert variant.drop <= 0.01
    assert "kept its accuracy by equalization" in variant.note
    images = sources.reference.images[:64]
    typed, _, untyped = (sources.folder / file.path for file in variant.files)
    expected = sources.reference.outputs["logits"][:64].argmax(1)
    for graph in (typed, untyped):
        assert not lint(onnx.load(graph))
        assert (simulated(graph, ["logits"])(images)["logits"].argmax(1) == expected).mean() > 0.9


def planted_layer_in_float(digits: ModelProto, folder: Path) -> tuple[AccuracySearch, Candidate, str]:
    """The search for layers in float on a network with badly scaled input channels of one layer; and that layer's name.

    Its plain INT8 decides at least two images in five otherwise, in any arithmetic: a step of the input is as large as most channels are.
    With that layer in float the others change a logit by a tenth of the least lead.
    """
    sources = sources_of(imbalanced(digits, 6, only=[1]), folder)
    bad = [p for p in layer_pairs(LayerGraph(digits)) if p.ceiling is None][1].second[0].name
    state = AccuracySearch(onnx_backend(sources))
    base = state.try_config("calibration", QuantizationConfig(REDUCED, "minmax"))
    assert base is not None
    assert not state.gate(base)
    assert base.entry.drop > 0.4
    made = search._keep_in_float(state)
    assert made is not None
    assert made.variant.status == "verified"
    assert bad in made.config.exclude
    assert len(made.config.exclude) <= 2  # the layer and its activation
    return state, made, bad


def test_sensitivity_finds_the_planted_layer_and_leaves_it_alone_in_float(digits: ModelProto, tmp_path: Path) -> None:
    state, made, bad = planted_layer_in_float(digits, tmp_path)
    assert state.layers[0].layer == bad
    assert state.layers[0].gain_db > 10 + max(s.gain_db for s in state.layers[1:])
    assert len(state.layers) == len(quantizable(digits))
    (layer,) = (n for n in onnx.load(made.folder / "model.u8.onnx").graph.node if n.name == bad)
    assert layer.input[1] in {t.name for t in onnx.load(made.folder / "model.u8.onnx").graph.initializer}


def test_many_layers_are_searched_by_blocks(
    digits: ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(blocks, "FEW", 4)
    state, _, bad = planted_layer_in_float(digits, tmp_path)
    assert bad in state.blocks[0].members
    assert len(state.blocks) < len(quantizable(digits))
    assert "layers in float, try 1 of at most" in capsys.readouterr().err


@pytest.mark.parametrize("scheme", [FULL, REDUCED, UNSIGNED], ids=lambda scheme: scheme.name)
def test_a_layer_in_float_reads_what_it_reads_in_the_float_graph(
    separable: ModelProto, images: np.ndarray, tmp_path: Path, scheme: Scheme
) -> None:
    """The quantizer removes a Relu or Clip if the range of Q/DQ has the same effect: a layer that reads the tensor before Q/DQ needs it back."""
    onnx.save(separable, tmp_path / "float.onnx")
    calibration = Calibration(tmp_path / "float.onnx", images, tmp_path)
    layers, in_float = quantizable(separable), {node.name: node for node in separable.graph.node}
    restored = 0
    for name in layers:
        exclude = excluding(layers, [name])
        quantize_onnx(calibration, tmp_path / "q.onnx", scheme, method="minmax", exclude=exclude)
        quantized = onnx.load(tmp_path / "q.onnx")
        activations = sum(node.op_type in {"Relu", "Clip"} for node in quantized.graph.node)
        released = restore_float_inputs(quantized, separable, exclude)
        onnx.checker.check_model(released, full_check=True)
        assert restore_float_inputs(copy_of(released), separable, exclude) == released
        restored += sum(node.op_type in {"Relu", "Clip"} for node in released.graph.node) - activations
        (layer,) = (node for node in released.graph.node if node.name == name)
        (wanted,) = observing(separable, [in_float[name].input[0]]).run(
            [in_float[name].input[0]], {"image": images[:8]}
        )
        (read,) = observing(released, [layer.input[0]]).run([layer.input[0]], {"image": images[:8]})
        assert read.min() >= min(0, wanted.min() - 0.1 * np.abs(wanted).max())
        # What is quantized before it stays within a tenth; a missing ReLU is off by half of the energy.
        assert np.square(read - wanted).sum() < 0.1 * np.square(wanted).sum(), name
    assert restored > 0


def copy_of(model: ModelProto) -> ModelProto:
    copied = ModelProto()
    copied.CopyFrom(model)
    return copied


class Ticking:
    """A clock that advances one second per reading, so that the progress of a search does not depend on the machine."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.mark.parametrize("seconds", [0, 25, 1000])
def test_a_search_that_is_cut_delivers_what_passed_or_is_rejected(
    digits: ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Equalization, which would repair this network, is left out; its plain INT8 loses most of the accuracy on any CPU."""
    monkeypatch.setattr(served, "METHODS", ("minmax",))
    monkeypatch.setattr(search, "_equalize", lambda state: None)
    monkeypatch.setattr(search, "_unsigned", lambda state: None)
    monkeypatch.setattr(blocks, "FEW", 4)
    sources = sources_of(imbalanced(digits, 6, only=[1]), tmp_path)
    variant = search_accuracy(onnx_backend(sources), sources.folder, budget=Budget(seconds, 10, Ticking()))
    quantization = variant.quantization
    assert quantization is not None
    assert (sources.folder / variant.files[0].path).is_file()
    assert quantization.search.cut == (seconds < 1000)
    assert ("ran out of time (10 minutes for all INT8 variants, --search-minutes)" in variant.note) == (seconds < 1000)
    verified = [entry for entry in quantization.tried if entry.status == "verified"]
    assert (variant.status == "verified") == bool(verified)
    assert (variant.status, quantization.strategy) in {("verified", "layers in float"), ("rejected", None)}
    if not seconds:
        assert [entry.strategy for entry in quantization.tried] == ["calibration"]
        assert "no candidate had passed" in variant.note
    if seconds == 1000:
        assert variant.status == "verified"


@pytest.mark.parametrize("symmetric", [False, True])
def test_distillation_without_labels_raises_agreement(symmetric: bool) -> None:
    model, pool = exported.pixels(), exported.splits().pool.center_crop(16).images
    learned = recover(
        model, pool[:256], Scheme("2-bit", 2, symmetric=symmetric), steps=40, learning_rate=1e-3, advance=nothing
    )
    unseen = torch.from_numpy(pool[600:1000].copy())
    with torch.no_grad():
        trained = model(unseen).argmax(1)
        agreement = [float((_rounded(m, 2)(unseen).argmax(1) == trained).float().mean()) for m in (model, learned)]
    assert agreement[0] < 0.9
    assert agreement[1] > agreement[0] + 0.05
    assert {n: p.shape for n, p in learned.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    for name, statistics in model.named_buffers():
        assert torch.equal(dict(learned.named_buffers())[name], statistics), name  # BatchNorm learned nothing


def _rounded(model: nn.Module, bits: int) -> nn.Module:
    """The model with its weights rounded, channel by channel."""
    import copy

    rounded, top = copy.deepcopy(model), 2 ** (bits - 1) - 1
    with torch.no_grad():
        for layer in quantized_layers(rounded, exported.splits().pool.center_crop(16).images[:2]):
            for channel in layer.weight:
                scale = channel.abs().max() / top
                channel.copy_((channel / scale).round() * scale)
    return rounded


def test_a_model_that_came_as_onnx_cannot_be_distilled(
    digits: ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "METHODS", ("minmax",))
    monkeypatch.setattr(search, "_equalize", lambda state: None)
    monkeypatch.setattr(search, "_keep_in_float", lambda state: None)
    sources = sources_of(imbalanced(digits, 4), tmp_path)
    variant = search_accuracy(onnx_backend(sources), sources.folder, recover=True)
    assert variant.quantization is not None
    (quantization,) = (t for t in variant.quantization.tried if t.strategy == "distillation")
    assert (quantization.status, "ONNX" in quantization.why) == ("failed", True)
    assert (variant.status, variant.quantization.strategy) in {("rejected", None), ("verified", "unsigned weights")}
