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
    Rung,
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

    way: QuantizationConfig
    variant: Variant
    folder: Path
    fidelity: Fidelity | None
    entry: Attempt


@dataclass
class AccuracySearch:
    """One runtime's way up the ladder.

    Attributes:
        family: the runtime's.
        made: every candidate, in the order of the making.
        tried: the same for the bundle.
        layers: what leaving each layer in float brings, once it was measured.
        blocks: the same of blocks of layers, where there are many.
        failure: of the last candidate that could not be made.
        budget: the time that all of it may take.
    """

    family: Backend
    made: dict[QuantizationConfig, Candidate] = field(default_factory=dict)
    tried: list[Attempt] = field(default_factory=list)
    layers: list[LayerSensitivity] = field(default_factory=list)
    blocks: list[LayerSensitivity] = field(default_factory=list)
    failure: ExportError | None = None
    budget: Budget = field(default_factory=Budget)

    @property
    def workshop(self) -> Quantizer:
        """That quantizes."""
        return self.family.workshop

    def candidate(self, rung: Rung, way: QuantizationConfig) -> Candidate | None:
        """Make a file and compare it on unlabeled images; None where it cannot be made."""
        if way in self.made:
            return self.made[way]
        began = time.monotonic()
        folder = self.workshop.folder / f"{self.family.target}-{len(self.tried)}"
        folder.mkdir()
        entry = Attempt(rung=rung, way=way.name, status="not chosen")
        if way.exclude:
            entry.in_float = list(way.exclude)
        self.tried.append(entry)
        try:
            variant = self.family.make(way, folder)
            entry.making_seconds = round(time.monotonic() - began, 3)
            fidelity = self.family.fidelity(variant, folder)
        except ExportError as error:  # of the tool behind this way; another may do
            self.failure = error
            entry.status, entry.why = "failed", error.message
            return None
        finally:
            entry.seconds = round(time.monotonic() - began, 3)
        if fidelity is not None:
            entry.unlabeled = fidelity.describe()
        self.made[way] = Candidate(way, variant, folder, fidelity, entry)
        return self.made[way]

    def gate(self, made: Candidate) -> bool:
        """Hold a candidate against the evaluation set; whether it passes."""
        entry = made.entry
        if made.variant.status == "unexecuted":
            began = time.monotonic()
            variant = self.family.verify(made.variant, made.folder)
            self.made[made.way] = replace(made, variant=variant)
            entry.status = variant.status
            entry.top1 = variant.accuracy.top1 if variant.accuracy else None
            entry.agreement = variant.agreement
            entry.drop = variant.drop
            entry.seconds = round(entry.seconds + time.monotonic() - began, 3)
        return self.made[made.way].variant.status != "rejected"

    def best_of(self, rung: Rung, ways: list[QuantizationConfig]) -> Candidate | None:
        """The most faithful of a rung's candidates on unlabeled images; None where none could be made."""
        chosen: Candidate | None = None
        for way in ways:
            if chosen is not None and way not in self.made and self.budget.over():
                break
            made = self.candidate(rung, way)
            if made is not None and (chosen is None or _better(made, chosen)):
                chosen = made
            if made is not None and made.fidelity is None:
                break
        return chosen

    def so_far(self, *, quantized_here: bool) -> Candidate | None:
        """The most faithful of everything made until now; with `quantized_here` NNCF's files are left out."""
        chosen: Candidate | None = None
        for made in self.made.values():
            if quantized_here and (made.way.scheme is None or made.way.exclude):
                continue
            if chosen is None or _better(made, chosen):
                chosen = made
        return chosen


def search_accuracy(family: Backend, folder: Path, *, recover: bool = False, budget: Budget | None = None) -> Variant:
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
    state = AccuracySearch(family, budget=budget or Budget())
    rungs: dict[Rung, Callable[[AccuracySearch], Candidate | None]] = {
        CALIBRATION: _calibrate,
        EQUALIZATION: _equalize,
        FLOAT_LAYERS: _keep_in_float,
    }
    if recover:
        rungs[DISTILLATION] = _distill
    rungs[UNSIGNED_WEIGHTS] = _unsigned
    for rung, attempt in rungs.items():
        if rung in {EQUALIZATION, FLOAT_LAYERS} and state.budget.over():
            continue
        made = attempt(state)
        if made is not None:
            return _delivered(state, made, rung, folder)
    made = state.so_far(quantized_here=False)
    if made is None:
        raise state.failure or ExportError(f"{family.target}: no INT8 file could be made")
    state.gate(made)
    return _delivered(state, state.made[made.way], None, folder)


def _calibrate(state: AccuracySearch) -> Candidate | None:
    for i, group in enumerate(state.family.groups()):
        if i and state.made and state.budget.over():
            break
        made = state.best_of(CALIBRATION, group)
        if made is not None and state.gate(made):
            return state.made[made.way]
    return None


def _equalize(state: AccuracySearch) -> Candidate | None:
    """Equalized by weights or by activations or not at all, the most faithful of them with and without corrected biases."""
    return _prepared(state, EQUALIZATION, _base(state))


def _keep_in_float(state: AccuracySearch) -> Candidate | None:
    base = state.so_far(quantized_here=True)
    if base is None or base.fidelity is None or base.way.scheme is None:
        return None
    calibration = state.workshop.calibration(base.way)
    assert calibration is not None
    model = read_onnx(calibration.model)
    layers = quantizable(model)
    uncorrected = replace(base.way, corrected=False)
    scratch = state.workshop.folder / f"{state.family.target}-left-out"
    scratch.mkdir()

    def measure(exclude: Exclude) -> Fidelity:
        fidelity = state.family.fidelity(state.family.make(replace(uncorrected, exclude=exclude), scratch), scratch)
        assert fidelity is not None
        return fidelity

    passed: dict[tuple[str, ...], Candidate] = {}

    def passes(names: tuple[str, ...]) -> bool:
        made = state.candidate(FLOAT_LAYERS, replace(base.way, exclude=excluding(layers, names)))
        if made is None or not state.gate(made):
            return False
        passed[names] = state.made[made.way]
        return True

    found = Search(f"{state.family.target} INT8", layers, measure, passes, state.budget).run()
    state.layers, state.blocks = found.layers, found.blocks
    return passed[found.chosen] if found.chosen is not None else None


def _distill(state: AccuracySearch) -> Candidate | None:
    if state.workshop.model is None:
        state.tried.append(
            Attempt(
                rung=DISTILLATION,
                way="distilled",
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
    made = state.best_of(DISTILLATION, [learned])
    if made is not None and state.gate(made):
        return state.made[made.way]
    return _prepared(state, DISTILLATION, learned)


def _unsigned(state: AccuracySearch) -> Candidate | None:
    base = state.so_far(quantized_here=True)
    way = state.family.last(base.way if base is not None else None)
    if way is None:
        return None
    made = state.best_of(UNSIGNED_WEIGHTS, [way])
    return state.made[made.way] if made is not None and state.gate(made) else None


def _prepared(state: AccuracySearch, rung: Rung, base: QuantizationConfig) -> Candidate | None:
    graphs = [
        replace(base, equalized=by)
        for by in (None, "weights", "activations")
        if by is None or state.workshop.calibration(replace(base, equalized=by)) is not None
    ]
    made = state.best_of(rung, graphs)
    if (
        made is not None and made.way.equalized
    ):  # what was best for wildly different channels need not be for equal ones
        methods = dict.fromkeys([made.way.method, *(way.method for way in state.family.groups()[0])])
        made = state.best_of(rung, [replace(made.way, method=method) for method in methods])
    if made is None:
        return None
    made = state.best_of(rung, [made.way, replace(made.way, corrected=True)])
    return state.made[made.way] if made is not None and state.gate(made) else None


def _base(state: AccuracySearch) -> QuantizationConfig:
    """What the later rungs start from: the calibration method that was the most faithful."""
    first = state.family.groups()[0]
    plain = [m for m in state.made.values() if m.way in first]
    chosen = plain[0] if plain else None
    for made in plain:
        chosen = made if chosen is None or _better(made, chosen) else chosen
    return chosen.way if chosen is not None else first[0]


def _better(one: Candidate, other: Candidate) -> bool:
    if one.fidelity is None or other.fidelity is None:
        return False
    return one.fidelity.better_than(other.fidelity)


def _delivered(state: AccuracySearch, made: Candidate, rung: Rung | None, folder: Path) -> Variant:
    for file in made.variant.files:
        copy_file(made.folder / file.path, folder / file.path)
    search = state.budget.describe()
    quantization = (made.variant.quantization or Quantization()).model_copy()
    quantization.rung, quantization.tried, quantization.search = rung, state.tried, search
    if state.layers:
        quantization.sensitivity = [layer.describe() for layer in state.layers]
    if state.blocks:
        quantization.sensitivity_of_blocks = [block.describe() for block in state.blocks]
    note = made.variant.note
    if rung in {EQUALIZATION, FLOAT_LAYERS, DISTILLATION}:
        note = "; ".join(n for n in (note, f"kept its accuracy by {rung}: {made.way.name}") if n)
    if search.cut:
        note = "; ".join(n for n in (note, _cut(state.budget, rung)) if n)
    return made.variant.model_copy(update={"quantization": quantization, "note": note})


def _cut(budget: Budget, rung: Rung | None) -> str:
    """What to know of a search that was cut."""
    limit = "" if budget.minutes is None else f" ({budget.minutes:g} minutes for all INT8 variants, --search-minutes)"
    found = "what had passed until then is taken" if rung is not None else "nothing had passed until then"
    return f"the search for INT8 that keeps the accuracy ran out of time{limit}: {found}, and more time may find better"
