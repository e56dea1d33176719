"""The result: one JSON file per measurement, with raw samples and everything needed to repeat it.

`Result.read(path)` reads one. `whole` is the file; `latency`, `evaluation` and `search` are what the commands measure.
"""

from edgekit.result.evaluation import (
    Ablation,
    AblationCell,
    Advice,
    AnswersFile,
    Axis,
    Difference,
    Draw,
    Evaluation,
    ModelCalibration,
    Score,
    Transfer,
    TransferSet,
    WorstImage,
)
from edgekit.result.latency import Latency, LayerTime, Profile, RateProbe, Scenario, Timeline
from edgekit.result.search import (
    PrunedStep,
    Pruning,
    Search,
    SearchCandidate,
    SearchRound,
    SearchTrained,
    SearchVariant,
    TrainedVariant,
)
from edgekit.result.whole import RESULT_SCHEMA, Measurement, Result, now

__all__ = [
    "RESULT_SCHEMA",
    "Ablation",
    "AblationCell",
    "Advice",
    "AnswersFile",
    "Axis",
    "Difference",
    "Draw",
    "Evaluation",
    "Latency",
    "LayerTime",
    "Measurement",
    "ModelCalibration",
    "Profile",
    "PrunedStep",
    "Pruning",
    "RateProbe",
    "Result",
    "Scenario",
    "Score",
    "Search",
    "SearchCandidate",
    "SearchRound",
    "SearchTrained",
    "SearchVariant",
    "Timeline",
    "TrainedVariant",
    "Transfer",
    "TransferSet",
    "WorstImage",
    "now",
]  # fmt: skip
