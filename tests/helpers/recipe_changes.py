"""A recipe that trains in seconds, and recipes with a few values changed, for tests that train."""

from __future__ import annotations

import copy
from typing import Any

TINY = {
    "name": "tiny",
    "data": {"labeled": "digits", "image_size": 16, "labels": 10},
    "pretrain": {
        "encoder": {"name": "resnet10", "width": 0.125, "stem": "strided"},
        "projection": {"output": 16},
        "epochs": 3,
        "batch_size": 256,
        "optimizer": {"name": "lars", "lr": 0.2, "warmup_epochs": 1},
    },
    "finetune": {
        "epochs": 3,
        "batch_size": 50,
        "fallback": False,
        "consistency": {"images": 16},
        "optimizer": {"name": "sgd", "lr": 0.05, "warmup_epochs": 0},
    },
    "distill": {
        "student": {"name": "resnet10", "width": 0.125, "stem": "strided"},
        "epochs": 3,
        "batch_size": 256,
        "labeled_weight": 0.2,
        "optimizer": {"name": "adamw", "lr": 1e-3, "warmup_epochs": 1},
    },
    "supervised": {"epochs": 3, "batch_size": 50, "search": False, "optimizer": {"warmup_epochs": 0}},
    "monitor": {"every": 0},
    "hardware": {"accelerator": "cpu", "checkpoint_seconds": 0},
}


def changed(content: dict[str, Any], **changes: object) -> dict[str, Any]:
    """A copy of a recipe's content with values set by path: `changed(RECIPE, pretrain__epochs=3)`."""
    content = copy.deepcopy(content)
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = content
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = value
    return content
