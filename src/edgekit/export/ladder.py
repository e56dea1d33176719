"""The ladder: what INT8 tries to keep the accuracy, rung by rung, in the runtime that will serve the file, up to the first that does.

Who decides what:

- Inside a rung, between its candidates: agreement and SQNR of the logits against the float model, on images without labels (see
  `fidelity`). No label is read for it.
- Whether a candidate passes: the loss of accuracy on the evaluation set, at most `max_drop`. That is the gate, and the only thing that labels
  are for. Everything that was ever held against it is in the bundle's `tried`, so a reader sees how often it was asked.
- How many layers stay in float: their order comes from the unlabelled images, the number from the gate.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from edgekit.bundle import Variant
from edgekit.errors import ExportError
from edgekit.export.fidelity import Fidelity
from edgekit.export.quantize import FULL, REDUCED, UNSIGNED, Scheme, saturates
from edgekit.export.ranges import METHODS
from edgekit.export.sensitivity import Exclude, LayerSensitivity, fewest, quantisable, sensitivity
from edgekit.export.verify import verify
from edgekit.export.ways import Way, Workshop
from edgekit.progress import progress

if TYPE_CHECKING:
    from edgekit.export.targets import Sources

CALIBRATION, EQUALISATION, FLOAT_LAYERS, DISTILLATION, UNSIGNED_WEIGHTS = (
    "calibration", "equalisation", "layers in float", "distillation", "unsigned weights",
)  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A candidate that was made and held against the float model.

    Attributes:
        way: how.
        variant: verified or not yet.
        folder: of its files.
        fidelity: None where its runtime is not here.
        entry: of it in the bundle's `tried`.
    """

    way: Way
    variant: Variant
    folder: Path
    fidelity: Fidelity | None
    entry: dict[str, Any]


@dataclass
class Climb:
    """One target's way up the ladder.

    Attributes:
        target: onnx or openvino.
        sources: what is exported.
        max_drop: the gate, in percentage points.
        workshop: makes the files.
        made: every candidate, in the order of the making.
        tried: the same for the bundle.
        layers: what leaving each layer in float brings, once it was measured.
    """

    target: str
    sources: Sources
    max_drop: float
    workshop: Workshop
    made: dict[Way, Made] = field(default_factory=dict)
    tried: list[dict[str, Any]] = field(default_factory=list)
    layers: list[LayerSensitivity] = field(default_factory=list)
    failure: ExportError | None = None

    def candidate(self, rung: str, way: Way) -> Made | None:
        """Make a file and compare it on unlabelled images; None where it cannot be made."""
        if way in self.made:
            return self.made[way]
        began = time.monotonic()
        folder = self.workshop.folder / f"{self.target}-{len(self.tried)}"
        folder.mkdir()
        entry: dict[str, Any] = {"rung": rung, "way": way.name, "status": "not chosen"}
        if way.exclude:
            entry["in_float"] = list(way.exclude)
        self.tried.append(entry)
        try:
            variant = self.workshop.make(self.target, way, folder)
            fidelity = self.workshop.fidelity(variant, folder) if self.runs else None
        except ExportError as error:  # of the tool behind this way; another may do
            self.failure = error
            entry |= {"status": "failed", "why": error.message}
            return None
        finally:
            entry["seconds"] = round(time.monotonic() - began, 3)
        if fidelity is not None:
            entry["unlabelled"] = fidelity.describe()
        self.made[way] = Made(way, variant, folder, fidelity, entry)
        return self.made[way]

    @property
    def runs(self) -> bool:
        """Whether the target's runtime is here: without it nothing can be compared, and the first way stands."""
        return self.workshop.runs(self.target)

    def gate(self, made: Made) -> bool:
        """Hold a candidate against the evaluation set; whether it passes."""
        entry = made.entry
        if made.variant.status == "unexecuted":
            began = time.monotonic()
            variant = verify(made.variant, made.folder, self.sources.reference, self.max_drop)
            self.made[made.way] = replace(made, variant=variant)
            entry |= {
                "status": variant.status,
                "top1": variant.accuracy.top1 if variant.accuracy else None,
                "agreement": variant.agreement,
                "drop": variant.drop,
                "seconds": round(entry["seconds"] + time.monotonic() - began, 3),
            }
        return self.made[made.way].variant.status != "rejected"

    def best_of(self, rung: str, ways: list[Way]) -> Made | None:
        """The most faithful of a rung's candidates on unlabelled images; None where none could be made."""
        chosen: Made | None = None
        for way in ways:
            made = self.candidate(rung, way)
            if made is not None and (chosen is None or _better(made, chosen)):
                chosen = made
            if made is not None and made.fidelity is None:
                break
        return chosen

    def so_far(self, *, quantised_here: bool) -> Made | None:
        """The most faithful of everything made until now; with `quantised_here` NNCF's files are left out."""
        chosen: Made | None = None
        for made in self.made.values():
            if quantised_here and (made.way.scheme is None or made.way.exclude):
                continue
            if chosen is None or _better(made, chosen):
                chosen = made
        return chosen


def climb(target: str, sources: Sources, max_drop: float, recover: bool = False) -> Variant:
    """The INT8 variant of a target: the first rung's that keeps the accuracy, its files in `sources.folder`.

    Where none does, the most faithful one, rejected.

    Args:
        target: onnx or openvino.
        sources: the float graph, the calibration, the trained model's answers and, for distillation, the network itself.
        max_drop: the largest loss of accuracy that passes, in percentage points.
        recover: whether to adapt the weights (minutes) where nothing else suffices.

    Raises:
        ExportError: no way leads to a file that runs.
    """
    if "int8" not in sources.shared:
        sources.shared["int8"] = Workshop(sources)
    state = Climb(target, sources, max_drop, sources.shared["int8"])
    rungs: dict[str, Callable[[Climb], Made | None]] = {
        CALIBRATION: _calibrate,
        EQUALISATION: _equalise,
        FLOAT_LAYERS: _keep_in_float,
    }
    if recover:
        rungs[DISTILLATION] = _distil
    if saturates() and target == "onnx":
        rungs[UNSIGNED_WEIGHTS] = _unsigned
    for rung, attempt in rungs.items():
        made = attempt(state)
        if made is not None:
            return _delivered(state, made, rung)
    made = state.so_far(quantised_here=False)
    if made is None:
        raise state.failure or ExportError(f"{target}: no INT8 file could be made")
    state.gate(made)
    return _delivered(state, state.made[made.way], None)


def scheme() -> Scheme:
    """The weights' scheme that is fast and does not saturate on this machine."""
    return REDUCED if saturates() else FULL


def ways(target: str) -> list[list[Way]]:
    """What the first rung tries: groups in order, the most faithful of each being held against the gate."""
    groups = [[Way(scheme(), method) for method in METHODS]]
    return [*groups, [Way(None)]] if target == "openvino" else groups


def _calibrate(state: Climb) -> Made | None:
    for group in ways(state.target):
        made = state.best_of(CALIBRATION, group)
        if made is not None and state.gate(made):
            return state.made[made.way]
    return None


def _equalise(state: Climb) -> Made | None:
    """Equalised by weights or by activations or not at all, the most faithful of them with and without corrected biases."""
    return _prepared(state, EQUALISATION, _base(state))


def _keep_in_float(state: Climb) -> Made | None:
    base = state.so_far(quantised_here=True)
    if base is None or base.fidelity is None or base.way.scheme is None:
        return None
    calibration = state.workshop.calibration(base.way.recovered, base.way.equalised)
    assert calibration is not None
    model = onnx.load(calibration.model)
    layers = quantisable(model)
    uncorrected = replace(base.way, corrected=False)
    scratch = state.workshop.folder / f"{state.target}-left-out"
    scratch.mkdir()

    def measure(exclude: Exclude) -> Fidelity:
        return state.workshop.fidelity(
            state.workshop.make(state.target, replace(uncorrected, exclude=exclude), scratch), scratch
        )

    with progress("sensitivity", len(layers) + 1, unit="layers") as advance:
        quantised = measure(())
        advance()
        state.layers = sensitivity(model, quantised, measure, advance)
    order = [s.layer for s in state.layers if s.gain_db > 0][: max(1, len(layers) // 2)]
    passed: dict[tuple[str, ...], Made] = {}

    def passes(names: tuple[str, ...]) -> bool:
        exclude = tuple(name for layer in names for name in layers[layer][1])
        made = state.candidate(FLOAT_LAYERS, replace(base.way, exclude=exclude))
        if made is None or not state.gate(made):
            return False
        passed[names] = state.made[made.way]
        return True

    chosen = fewest(order, passes) if order else None
    return passed[chosen] if chosen is not None else None


def _distil(state: Climb) -> Made | None:
    if state.sources.model is None:
        state.tried.append(
            {"rung": DISTILLATION, "way": "distilled", "status": "failed", "seconds": 0.0,
             "why": "the model came as ONNX: its weights cannot be trained further"}
        )  # fmt: skip
        return None
    base = _base(state)
    if base.scheme is None:
        return None
    state.workshop.prepare(base.scheme.bits)
    made = state.best_of(DISTILLATION, [replace(base, recovered=True)])
    if made is not None and state.gate(made):
        return state.made[made.way]
    return _prepared(state, DISTILLATION, replace(base, recovered=True))


def _unsigned(state: Climb) -> Made | None:
    base = state.so_far(quantised_here=True)
    way = base.way if base is not None else Way(UNSIGNED)
    made = state.best_of(UNSIGNED_WEIGHTS, [replace(way, scheme=UNSIGNED, exclude=())])
    return state.made[made.way] if made is not None and state.gate(made) else None


def _prepared(state: Climb, rung: str, base: Way) -> Made | None:
    graphs = [
        replace(base, equalised=by)
        for by in (None, "weights", "activations")
        if by is None or state.workshop.calibration(base.recovered, by) is not None
    ]
    made = state.best_of(rung, graphs)
    if (
        made is not None and made.way.equalised
    ):  # what was best for wildly different channels need not be for equal ones
        made = state.best_of(rung, [made.way, *(replace(made.way, method=m) for m in METHODS if m != made.way.method)])
    if made is None:
        return None
    made = state.best_of(rung, [made.way, replace(made.way, corrected=True)])
    return state.made[made.way] if made is not None and state.gate(made) else None


def _base(state: Climb) -> Way:
    """What the later rungs start from: the calibration method that was the most faithful."""
    plain = [m for m in state.made.values() if m.way in ways(state.target)[0]]
    chosen = plain[0] if plain else None
    for made in plain:
        chosen = made if chosen is None or _better(made, chosen) else chosen
    return chosen.way if chosen is not None else ways(state.target)[0][0]


def _better(one: Made, other: Made) -> bool:
    if one.fidelity is None or other.fidelity is None:
        return False
    return one.fidelity.better_than(other.fidelity)


def _delivered(state: Climb, made: Made, rung: str | None) -> Variant:
    for file in made.variant.files:
        shutil.copyfile(made.folder / file.path, state.sources.folder / file.path)
    quantization = {**(made.variant.quantization or {}), "rung": rung, "tried": state.tried}
    if state.layers:
        quantization["sensitivity"] = [layer.describe() for layer in state.layers]
    note = made.variant.note
    if rung in {EQUALISATION, FLOAT_LAYERS, DISTILLATION}:
        note = "; ".join(n for n in (note, f"kept its accuracy by {rung}: {made.way.name}") if n)
    return made.variant.model_copy(update={"quantization": quantization, "note": note})
