"""Teachers of distillation by name: classifiers of timm and torchvision, with the weights of a file or those that are published."""

from __future__ import annotations

from typing import Any

from torch import nn

from edgekit.errors import EdgekitError, RecipeError, typed_reason_of
from edgekit.foreign import Unreadable
from edgekit.models.named import for_timm, refuse_unknown
from edgekit.models.pretrained import Published, fetch, published
from edgekit.models.weight_files import read_weights
from edgekit.models.weights import LoadedWeights, load_weights
from edgekit.recipe import PRETRAINED, TeacherSource
from edgekit.sizes import ImageSize


def named_classifier(
    source: TeacherSource, classes: int, image_size: ImageSize, where: str
) -> tuple[nn.Module, LoadedWeights | None, Published | None]:
    """Build a classifier of a library.

    Args:
        source: with a library's name and weights.
        classes: number of logits that it must have.
        image_size: size of the images that it gets, in pixels.
        where: the recipe's key, for messages.

    Returns:
        The network; what was loaded from a file; what is published of it (None for nothing).

    Raises:
        RecipeError: the name is unknown, the weights cannot be had or do not fit, or are for another number of classes.
    """
    assert source.library is not None
    assert source.weights is not None
    library, name = source.library
    refuse_unknown(library, name, where)
    if source.weights != PRETRAINED:
        network = _build(library, name, classes, image_size, where)
        loaded = load_weights(network, source.weights, where, named=source.model, weights_key=source.weights_key)
        return network, loaded, _known(library, name, where)
    known = published(library, name, where)
    if known.classes != classes:
        raise RecipeError(
            f"{where}: {known.name} has {known.classes} classes, but data.labeled has {classes}",
            "give weights that were trained on your classes; to learn from its features instead, name it as pretrain.teacher",
        )
    file = fetch(known, where)
    if not known.of_timm:
        network = _build(library, name, None, image_size, where)
        return network, load_weights(network, str(file), where, named=source.model), known
    try:
        tensors = read_weights(file).value
    except Unreadable as error:
        raise RecipeError(f"{where}: {file}: {error.detail}", "delete it, and it is fetched again") from error
    overlay = {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": tensors}}
    return _build(library, name, None, image_size, where, overlay), None, known


def _known(library: str, name: str, where: str) -> Published | None:
    try:
        return published(library, name, where)
    except RecipeError:
        return None


def _build(
    library: str, name: str, classes: int | None, image_size: ImageSize, where: str, more: dict[str, Any] | None = None
) -> nn.Module:
    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    options |= more or {}
    try:
        if library == "torchvision":
            import torchvision.models as zoo

            sized = {}
            if name.startswith("vit_"):
                if not image_size.is_square:
                    raise RecipeError(
                        f"{where}: {library}:{name} takes only square images, not {image_size} px",
                        "set its image_size to a square, or use a ViT of timm",
                    )
                sized = {"image_size": image_size.height}
            return zoo.get_model(name, weights=None, **options, **sized)
        import timm

        try:
            return timm.create_model(name, **options, img_size=for_timm(image_size))  # transformers need the image size
        except TypeError:
            return timm.create_model(name, **options)
    except EdgekitError:
        raise
    except Exception as error:  # whatever the library's code raises
        reason = typed_reason_of(error)
        raise RecipeError(
            f"{where}: {library}:{name} cannot be built for images of {image_size} px: {reason}", "change image_size"
        ) from error
