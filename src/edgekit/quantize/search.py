"""The ladder: what INT8 tries to keep the accuracy, rung by rung, in the runtime that will serve the file, up to the first that does.

Who decides what:

- Inside a rung, between its candidates: agreement and SQNR of the logits against the float model, on images without labels (see
  `fidelity`). No label is read for it.
- Whether a candidate passes: the loss of accuracy on the evaluation set, at most `max_drop`. That is the gate, and the only thing that labels
  are for. Everything that was ever held against it is in the bundle's `tried`, so a reader sees how often it was asked.
- How many layers stay in float: their order comes from the unlabeled images, the number from the gate.
- How long it takes: a `Budget`. When its time is up, no further candidate is made; what passed until then is delivered, else what only the
  user asked for (distillation) and the last resort are tried, else the most faithful file is rejected. That it was cut is in the bundle.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgekit.bundle import Variant
from edgekit.errors import ExportError
from edgekit.files import copy_file
from edgekit.onnx_graph.files import read_onnx
from edgekit.quantization import (
    CALIBRATION,
    DISTILLATION,
    EQUALIZATION,
    FLOAT_LAYERS,
    UNSIGNED_WEIGHTS,
    Attempt,
    Quantization,
    Strategy,
)
from edgekit.quantize.backend import Backend
from edgekit.quantize.budget import Budget
from edgekit.quantize.fidelity import Fidelity
from edgekit.quantize.mixed_precision import Search
from edgekit.quantize.quantizer import QuantizationConfig, Quantizer
from edgekit.quantize.sensitivity import Exclude, LayerSensitivity, excluding, quantizable


@dataclass(frozen=True)
class Candidate:
    """A candidate that was made and held against the float model.

    Attributes:
        way: how.
        variant: verified or not yet.
        folder: of its files.
        fidelity: None where nothing here runs it: then nothing can be compared, and the first way stands.
        entry: of it in the bundle's `tried`.
    """

    config: QuantizationConfig
    variant: Variant
    folder: Path
    fidelity: Fidelity | None
    entry: Attempt


@dataclass
class AccuracySearch:
    """One runtime's way up the ladder.

    Attributes:
        family: the runtime's.
        candidates: every candidate, in the order of the making.
        tried: the same for the bundle.
        layers: what leaving each layer in float brings, once it was measured.
        blocks: the same of blocks of layers, where there are many.
        failure: of the last candidate that could not be made.
        budget: the time that all of it may take.
    """

    backend: Backend
    candidates: dict[QuantizationConfig, Candidate] = field(default_factory=dict)
    tried: list[Attempt] = field(default_factory=list)
    layers: list[LayerSensitivity] = field(default_factory=list)
    blocks: list[LayerSensitivity] = field(default_factory=list)
    failure: ExportError | None = None
    budget: Budget = field(default_factory=Budget)

    @property
    def quantizer(self) -> Quantizer:
        """That quantizes."""
        return self.backend.quantizer

    def try_config(self, strategy: Strategy, config: QuantizationConfig) -> Candidate | None:
        """Make a file and compare it on unlabeled images; None where it cannot be made."""
        if config in self.candidates:
            return self.candidates[config]
        began = time.monotonic()
        folder = self.quantizer.folder / f"{self.backend.target}-{len(self.tried)}"
        folder.mkdir()
        entry = Attempt(strategy=strategy, configuration=config.name, status="not chosen")
        if config.exclude:
            entry.in_float = list(config.exclude)
        self.tried.append(entry)
        try:
            variant = self.backend.make(config, folder)
            entry.making_seconds = round(time.monotonic() - began, 3)
            fidelity = self.backend.fidelity(variant, folder)
        except ExportError as error:  # of the tool behind this way; another may do
            self.failure = error
            entry.status, entry.why = "failed", error.message
            return None
        finally:
            entry.seconds = round(time.monotonic() - began, 3)
        if fidelity is not None:
            entry.unlabeled = fidelity.describe()
        self.candidates[config] = Candidate(config, variant, folder, fidelity, entry)
        return self.candidates[config]

    def gate(self, candidate: Candidate) -> bool:
        """Hold a candidate against the evaluation set; whether it passes."""
        entry = candidate.entry
        if candidate.variant.status == "unexecuted":
            began = time.monotonic()
            variant = self.backend.verify(candidate.variant, candidate.folder)
            self.candidates[candidate.config] = replace(candidate, variant=variant)
            entry.status = variant.status
            entry.top1 = variant.accuracy.top1 if variant.accuracy else None
            entry.agreement = variant.agreement
            entry.drop = variant.drop
            entry.seconds = round(entry.seconds + time.monotonic() - began, 3)
        return self.candidates[candidate.config].variant.status != "rejected"

    def best_of(self, strategy: Strategy, configs: list[QuantizationConfig]) -> Candidate | None:
        """The most faithful of a rung's candidates on unlabeled images; None where none could be made."""
        chosen: Candidate | None = None
        for config in configs:
            if chosen is not None and config not in self.candidates and self.budget.over():
                break
            candidate = self.try_config(strategy, config)
            if candidate is not None and (chosen is None or _better(candidate, chosen)):
                chosen = candidate
            if candidate is not None and candidate.fidelity is None:
                break
        return chosen

    def so_far(self, *, refinable: bool) -> Candidate | None:
        """The most faithful of everything made until now; with `refinable` NNCF's files are left out."""
        chosen: Candidate | None = None
        for candidate in self.candidates.values():
            if refinable and (candidate.config.scheme is None or candidate.config.exclude):
                continue
            if chosen is None or _better(candidate, chosen):
                chosen = candidate
        return chosen


def search_accuracy(backend: Backend, folder: Path, *, recover: bool = False, budget: Budget | None = None) -> Variant:
    """The INT8 variant of a runtime: the first rung's that keeps the accuracy.

    Where none does, the most faithful one, rejected.

    Args:
        family: the runtime's.
        folder: where the variant's files go.
        recover: whether to adapt the weights (minutes) where nothing else suffices.
        budget: the time that it may take beside that; None: as long as it needs.

    Raises:
        ExportError: no way leads to a file that runs.
    """
    state = AccuracySearch(backend, budget=budget or Budget())
    strategies: dict[Strategy, Callable[[AccuracySearch], Candidate | None]] = {
        CALIBRATION: _calibrate,
        EQUALIZATION: _equalize,
        FLOAT_LAYERS: _keep_in_float,
    }
    if recover:
        strategies[DISTILLATION] = _distill
    strategies[UNSIGNED_WEIGHTS] = _unsigned
    for strategy, attempt in strategies.items():
        if strategy in {EQUALIZATION, FLOAT_LAYERS} and state.budget.over():
            continue
        candidate = attempt(state)
        if candidate is not None:
            return _delivered(state, candidate, strategy, folder)
    candidate = state.so_far(refinable=False)
    if candidate is None:
        raise state.failure or ExportError(f"{backend.target}: no INT8 file could be made")
    state.gate(candidate)
    return _delivered(state, state.candidates[candidate.config], None, folder)


def _calibrate(state: AccuracySearch) -> Candidate | None:
    for i, group in enumerate(state.backend.groups()):
        if i and state.candidates and state.budget.over():
            break
        candidate = state.best_of(CALIBRATION, group)
        if candidate is not None and state.gate(candidate):
            return state.candidates[candidate.config]
    return None


def _equalize(state: AccuracySearch) -> Candidate | None:
    """Equalized by weights or by activations or not at all, the most faithful of them with and without corrected biases."""
    return _prepared(state, EQUALIZATION, _base(state))


def _keep_in_float(state: AccuracySearch) -> Candidate | None:
    base = state.so_far(refinable=True)
    if base is None or base.fidelity is None or base.config.scheme is None:
        return None
    calibration = state.quantizer.calibration(base.config)
    assert calibration is not None
    model = read_onnx(calibration.model)
    layers = quantizable(model)
    uncorrected = replace(base.config, corrected=False)
    scratch = state.quantizer.folder / f"{state.backend.target}-left-out"
    scratch.mkdir()

    def measure(exclude: Exclude) -> Fidelity:
        fidelity = state.backend.fidelity(state.backend.make(replace(uncorrected, exclude=exclude), scratch), scratch)
        assert fidelity is not None
        return fidelity

    passed: dict[tuple[str, ...], Candidate] = {}

    def passes(names: tuple[str, ...]) -> bool:
        candidate = state.try_config(FLOAT_LAYERS, replace(base.config, exclude=excluding(layers, names)))
        if candidate is None or not state.gate(candidate):
            return False
        passed[names] = state.candidates[candidate.config]
        return True

    found = Search(f"{state.backend.target} INT8", layers, measure, passes, state.budget).run()
    state.layers, state.blocks = found.layers, found.blocks
    return passed[found.chosen] if found.chosen is not None else None


def _distill(state: AccuracySearch) -> Candidate | None:
    if state.quantizer.model is None:
        state.tried.append(
            Attempt(
                strategy=DISTILLATION,
                configuration="distilled",
                status="failed",
                seconds=0.0,
                why="the model came as ONNX: its weights cannot be trained further",
            )
        )
        return None
    base = _base(state)
    if base.scheme is None:
        return None
    learned = replace(base, learned=base.scheme)
    candidate = state.best_of(DISTILLATION, [learned])
    if candidate is not None and state.gate(candidate):
        return state.candidates[candidate.config]
    return _prepared(state, DISTILLATION, learned)


def _unsigned(state: AccuracySearch) -> Candidate | None:
    base = state.so_far(refinable=True)
    config = state.backend.last(base.config if base is not None else None)
    if config is None:
        return None
    candidate = state.best_of(UNSIGNED_WEIGHTS, [config])
    return state.candidates[candidate.config] if candidate is not None and state.gate(candidate) else None


def _prepared(state: AccuracySearch, strategy: Strategy, base: QuantizationConfig) -> Candidate | None:
    graphs = [
        replace(base, equalized=by)
        for by in (None, "weights", "activations")
        if by is None or state.quantizer.calibration(replace(base, equalized=by)) is not None
    ]
    candidate = state.best_of(strategy, graphs)
    if (
        candidate is not None and candidate.config.equalized
    ):  # what was best for wildly different channels need not be for equal ones
        methods = dict.fromkeys([candidate.config.method, *(config.method for config in state.backend.groups()[0])])
        candidate = state.best_of(strategy, [replace(candidate.config, method=method) for method in methods])
    if candidate is None:
        return None
    candidate = state.best_of(strategy, [candidate.config, replace(candidate.config, corrected=True)])
    return state.candidates[candidate.config] if candidate is not None and state.gate(candidate) else None


def _base(state: AccuracySearch) -> QuantizationConfig:
    """What the later rungs start from: the calibration method that was the most faithful."""
    first = state.backend.groups()[0]
    plain = [m for m in state.candidates.values() if m.config in first]
    chosen = plain[0] if plain else None
    for candidate in plain:
        chosen = candidate if chosen is None or _better(candidate, chosen) else chosen
    return chosen.config if chosen is not None else first[0]


def _better(one: Candidate, other: Candidate) -> bool:
    if one.fidelity is None or other.fidelity is None:
        return False
    return one.fidelity.better_than(other.fidelity)


def _delivered(state: AccuracySearch, candidate: Candidate, strategy: Strategy | None, folder: Path) -> Variant:
    for file in candidate.variant.files:
        copy_file(candidate.folder / file.path, folder / file.path)
    search = state.budget.describe()
    quantization = (candidate.variant.quantization or Quantization()).model_copy()
    quantization.strategy, quantization.tried, quantization.search = strategy, state.tried, search
    if state.layers:
        quantization.sensitivity = [layer.describe() for layer in state.layers]
    if state.blocks:
        quantization.sensitivity_of_blocks = [block.describe() for block in state.blocks]
    note = candidate.variant.note
    if strategy in {EQUALIZATION, FLOAT_LAYERS, DISTILLATION}:
        note = "; ".join(n for n in (note, f"kept its accuracy by {strategy}: {candidate.config.name}") if n)
    if search.cut:
        note = "; ".join(n for n in (note, _cut(state.budget, strategy)) if n)
    return candidate.variant.model_copy(update={"quantization": quantization, "note": note})


def _cut(budget: Budget, strategy: Strategy | None) -> str:
    """What to know of a search that was cut."""
    limit = "" if budget.minutes is None else f" ({budget.minutes:g} minutes for all INT8 variants, --search-minutes)"
    found = "what had passed until then is taken" if strategy is not None else "nothing had passed until then"
    return f"the search for INT8 that keeps the accuracy ran out of time{limit}: {found}, and more time may find better"
