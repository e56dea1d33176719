"""The names of edgekit's own tasks: what a model answers. Cheap to import: a recipe and the options of commands list them."""

from __future__ import annotations

from typing import Literal, get_args

TaskName = Literal["classification", "recognition", "multilabel", "anomaly"]
TASK_NAMES: tuple[TaskName, ...] = get_args(TaskName)
CLASSIFICATION, RECOGNITION, MULTILABEL, ANOMALY = TASK_NAMES
