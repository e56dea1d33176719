"""The stages of a run, in order, and the classifiers that they train. Imports nothing heavy: `--help` and tab-completion use it."""

from __future__ import annotations

from typing import Literal

StageName = Literal["data", "pretrain", "finetune", "distill", "supervised", "anomaly"]
STAGES: tuple[StageName, ...] = ("data", "pretrain", "finetune", "distill", "supervised", "anomaly")

# stage -> the classifier that it trains
MODEL_OF = {"finetune": "teacher", "distill": "student", "supervised": "supervised"}
# classifier -> the stage that trains it
TRAINED_BY = {model: stage for stage, model in MODEL_OF.items()}
