"""Pretraining methods, one file each. A new method is a new file and a line here.

A method is a module with `model` (a `Pretrained`: encoder and head) and `loss(views) -> (loss, what the monitor looks at)`.
"""

from __future__ import annotations

from edgekit.train.pretrain.simclr import SimCLR

METHODS = {"simclr": SimCLR}
