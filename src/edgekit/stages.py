"""The stages of a run, in order, and the classifiers that they train. Imports nothing heavy: `--help` and tab-completion use it."""

from __future__ import annotations

from typing import Literal

StageName = Literal["data", "pretrain", "finetune", "distill", "supervised", "anomaly"]
# A run has those of its task: `anomaly` takes the place of the three behind it.
STAGES: tuple[StageName, ...] = ("data", "pretrain", "anomaly", "finetune", "distill", "supervised")

# stage -> the classifier that it trains
MODEL_OF = {"finetune": "teacher", "distill": "student", "supervised": "supervised"}
# stage -> the stage whose weights it starts from
STARTS_FROM = {"finetune": "pretrain", "distill": "finetune", "anomaly": "pretrain"}
# classifier -> the stage that trains it
TRAINED_BY = {model: stage for stage, model in MODEL_OF.items()}
