"""The accuracy search: try one strategy after the other until an INT8 file keeps the accuracy in the runtime that will serve it.

How it decides:

- Between the candidates of a strategy: agreement and SQNR of the task's main output with the float model, on unlabeled images (see `fidelity`). No
  label is used.
- Whether a candidate passes: the loss of accuracy on the evaluation set is at most `max_drop`. This gate is the only use of labels. Every
  candidate that was verified is in the bundle's `tried`, so a reader sees how often the labels were used.
- How many layers stay in float: the unlabeled images give their order, the gate gives the number.
- How long it takes: a `Budget`. When the time is up, no further candidate is made. A candidate that has passed is delivered. If none has,
  distillation (if the user asked for it) and the last strategy are still tried; then the best file is delivered, rejected. The bundle
  records that the search was cut.
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
    """An INT8 file that was made and compared with the float model.

    Attributes:
        config: how it was quantized.
        variant: the variant, verified or not yet.
        folder: the folder of its files.
        fidelity: its comparison with the float model; None if it cannot run on this machine: then the first candidate is taken.
        entry: its entry in the bundle's `tried`.
    """

    config: QuantizationConfig
    variant: Variant
    folder: Path
    fidelity: Fidelity | None
    entry: Attempt


@dataclass
class AccuracySearch:
    """The state of one backend's accuracy search.

    Attributes:
        backend: the runtime that files are made for.
        candidates: every candidate by its configuration, in the order in which they were made.
        tried: the records of all attempts, for the bundle.
        layers: the sensitivity of each layer; empty until it was measured.
        blocks: the same for blocks of layers, if there are many layers.
        failure: the error of the last candidate that could not be made.
        budget: the time limit of the whole search.
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
        """The backend's quantizer."""
        return self.backend.quantizer

    def try_config(self, strategy: Strategy, config: QuantizationConfig) -> Candidate | None:
        """Make a candidate and compare it on unlabeled images; None if it cannot be made."""
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
        except ExportError as error:  # this tool failed; another configuration may work
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
        """Verify a candidate on the evaluation set; return whether it passes."""
        entry = candidate.entry
        if candidate.variant.status == "unexecuted":
            began = time.monotonic()
            variant = self.backend.verify(candidate.variant, candidate.folder)
            self.candidates[candidate.config] = replace(candidate, variant=variant)
            entry.status = variant.status
            entry.score = variant.accuracy.value if variant.accuracy else None
            entry.agreement = variant.agreement
            entry.drop = variant.drop
            entry.seconds = round(entry.seconds + time.monotonic() - began, 3)
        return self.candidates[candidate.config].variant.status != "rejected"

    def best_of(self, strategy: Strategy, configs: list[QuantizationConfig]) -> Candidate | None:
        """Make the candidates of a strategy; return the best on unlabeled images, or None if none could be made."""
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
        """The best candidate until now. `refinable`: only those that a later strategy can start from (not NNCF's, no extra layers in float)."""
        chosen: Candidate | None = None
        for candidate in self.candidates.values():
            if refinable and (candidate.config.scheme is None or candidate.config.exclude):
                continue
            if chosen is None or _better(candidate, chosen):
                chosen = candidate
        return chosen


def search_accuracy(backend: Backend, folder: Path, *, recover: bool = False, budget: Budget | None = None) -> Variant:
    """Return the INT8 variant of a backend: the first that keeps the accuracy; if none does, the best one, rejected.

    Args:
        backend: the runtime that files are made for.
        folder: destination of the variant's files.
        recover: whether to distill the weights (minutes) if the strategies before are not enough.
        budget: the time limit of the search without the distillation; None: no limit.

    Raises:
        ExportError: no configuration gives a file that runs.
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
    """Equalize by weights, by activations, or not at all; then the best of these with and without bias correction."""
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
                why="the model was given as ONNX: its weights cannot be trained further",
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
    ):  # the best method before equalization need not be the best after it
        methods = dict.fromkeys([candidate.config.method, *(config.method for config in state.backend.groups()[0])])
        candidate = state.best_of(strategy, [replace(candidate.config, method=method) for method in methods])
    if candidate is None:
        return None
    candidate = state.best_of(strategy, [candidate.config, replace(candidate.config, corrected=True)])
    return state.candidates[candidate.config] if candidate is not None and state.gate(candidate) else None


def _base(state: AccuracySearch) -> QuantizationConfig:
    """The configuration that later strategies start from: the best calibration method."""
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
    variant = candidate.variant.model_copy(update={"quantization": quantization})
    if strategy in {EQUALIZATION, FLOAT_LAYERS, DISTILLATION}:
        variant = variant.noted(f"kept its accuracy by {strategy}: {candidate.config.name}")
    return variant.noted(_cut(state.budget, strategy)) if search.cut else variant


def _cut(budget: Budget, strategy: Strategy | None) -> str:
    """The note on a search that was cut."""
    limit = "" if budget.minutes is None else f" ({budget.minutes:g} minutes for all INT8 variants, --search-minutes)"
    outcome = "the candidate that had passed was taken" if strategy is not None else "no candidate had passed"
    return f"the accuracy search for INT8 ran out of time{limit}: {outcome}; a longer limit may find a better one"
