"""Parts of the encoder that fine-tuning does not train: for tiny label budgets, the fewer layers learn, the less they can overfit."""

from __future__ import annotations

from typing import Literal

from torch import nn

Trained = Literal["all", "last_stage", "head"]


def frozen_modules(network: nn.Module, trained: Trained) -> list[nn.Module]:
    """Return the modules of an encoder's network that keep their weights and their BatchNorm statistics.

    A stage is the outermost module with a number in the end of its name that has parts of its own: `layer4` of a ResNet, `blocks.6` of an
    EfficientNet, `features.12` of a MobileNet, `blocks.11` of a ViT. What comes after the last one (`conv_head`, `norm`) belongs to it.

    Args:
        network: of the encoder.
        trained: all, last_stage or head, as `finetune.train` of the recipe.
    """
    if trained == "all":
        return []
    if trained == "head":
        return list(network.modules())
    last = last_stage(network)
    frozen: list[nn.Module] = []
    for name, module in network.named_modules():
        if name == last:
            break
        if name and not last.startswith(f"{name}."):
            frozen.append(module)
    return frozen


def last_stage(network: nn.Module) -> str:
    """Return the name of the last stage; of a network without numbered parts, of its last part with weights."""
    found = ""
    for name, _ in network.named_parameters():
        parts = name.split(".")
        for count in range(1, len(parts)):
            prefix = ".".join(parts[:count])
            if prefix[-1].isdigit() and _has_parts(network.get_submodule(prefix)):
                found = prefix
                break
    return found or [name for name, _ in network.named_parameters()][-1].partition(".")[0]


def _has_parts(module: nn.Module) -> bool:
    """Whether it has parts with weights (a normalization with its activation has none)."""
    return any(True for child in module.children() for _ in child.parameters())


def freeze(network: nn.Module, trained: Trained) -> list[nn.Module]:
    """Let everything before the trained part receive no gradient; return the modules to keep in evaluation mode (`frozen_modules`).

    Parameters beside the stages (the class token and the positional embedding of a ViT) come before them, and are frozen with them.
    """
    frozen = frozen_modules(network, trained)
    last = last_stage(network) if trained == "last_stage" else ""
    around = [m for name, m in network.named_modules() if last and (not name or last.startswith(f"{name}."))]
    for module in (*frozen, *around):
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
    return frozen
