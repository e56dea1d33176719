"""Candidates: students that a search measures, from the curated list or the user's own."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgekit.errors import RecipeError
from edgekit.files import digest_of
from edgekit.foreign import Unreadable, read_text
from edgekit.recipe import SMALL_IMAGE, Architecture, Recipe, parse
from edgekit.recipe.plain_yaml import read_yaml
from edgekit.sizes import LEAST_SIDE, MOST_TRAINED, ImageSize, SizeLike
from edgekit.validation import first_problem

MOST = 1000  # candidates of one search
_MOST_BYTES = 1 << 18
_SIZE = "image_size"
_FORM = "write it like resnet18, or {name: resnet18, width: [0.25, 0.5], image_size: [32, 64, [48, 64]]}"


@dataclass(frozen=True)
class Candidate:
    """A student at a resolution.

    Attributes:
        architecture: the network, as `distill.student` of a recipe.
        image_size: size of its images, in pixels.
        label: its name, where the search gives one itself; empty: it follows from the architecture.
    """

    architecture: Architecture
    image_size: ImageSize
    label: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", ImageSize.of(self.image_size))

    @property
    def name(self) -> str:
        """A readable and unique name, which is also that of a folder."""
        if self.label:
            return self.label
        own = self.architecture
        parts = [own.name.replace(":", "-")]
        parts += [f"w{own.width:g}"] if own.width != 1 else []
        parts += [own.stem] if own.stem != "auto" else []
        parts += ["sk"] if own.selective_kernels else []
        parts += [f"p{own.patch_size}"] if own.patch_size is not None else []
        parts.append(str(self.image_size))
        rest = own.model_dump(
            exclude={"name", "width", "stem", "selective_kernels", "patch_size"}, exclude_defaults=True
        )
        if rest:
            parts.append(digest_of(rest)[:8])
        return re.sub(r"[^A-Za-z0-9._-]", "_", "-".join(parts))

    @property
    def family(self) -> str:
        """What it has in common with candidates that differ in width alone."""
        return digest_of([self.architecture.model_dump(mode="json", exclude={"width"}), self.image_size.plain])

    def student(self) -> dict[str, Any]:
        """Its keys in `distill.student`: those that differ from the defaults, and always name and width."""
        return {
            "name": self.architecture.name,
            "width": self.architecture.width,
            **self.architecture.model_dump(mode="json", exclude={"name", "width"}, exclude_defaults=True),
        }

    def in_recipe(self, recipe: Recipe) -> Recipe:
        """Return a recipe with this student and its resolution."""
        distill = recipe.distill.model_copy(update={"student": self.architecture})
        data = recipe.data
        if data.image_size != self.image_size:
            resize_to = data.resize_to
            if resize_to is not None:
                side = self.image_size.shorter
                resize_to = max(side, round(resize_to * side / data.image_size.shorter))
            data = data.model_copy(update={_SIZE: self.image_size, "resize_to": resize_to})
        return recipe.model_copy(update={"distill": distill, "data": data})


# Networks that convert to every runtime, most with ReLU or ReLU6, which INT8 needs to be fast on CPUs.
_WIDTHS = {
    "resnet10": (0.125, 0.25, 0.375, 0.5, 0.75, 1.0),
    "resnet14": (0.25, 0.5, 1.0),
    "resnet18": (0.125, 0.25, 0.375, 0.5, 0.75, 1.0),
    "resnet26": (0.25, 0.5),
    "resnet34": (0.25, 0.5, 1.0),
}
_STRIDED = {"resnet10": (0.25, 0.5, 0.75, 1.0), "resnet18": (0.25, 0.5, 0.75, 1.0), "resnet34": (0.5, 1.0)}
_OTHERS = (
    "timm:lcnet_050", "timm:lcnet_100", "timm:mobilenetv3_small_050", "timm:mobilenetv3_small_100", "timm:mobilenetv2_050",
    "timm:mobilenetv2_100", "timm:efficientnet_lite0", "timm:regnetx_002", "timm:mnasnet_100", "timm:fbnetc_100",
    "torchvision:shufflenet_v2_x0_5", "torchvision:shufflenet_v2_x1_0", "torchvision:squeezenet1_1",
)  # fmt: skip


def curated(image_size: SizeLike) -> list[Candidate]:
    """Return the curated list for images of a size.

    Args:
        image_size: in pixels; with a shorter side above `SMALL_IMAGE`, a stride of 2 in a ResNet's stem is usual, so there are no further
            ones for it.
    """
    image_size = ImageSize.of(image_size)
    networks = [Architecture(name=name, width=width) for name, widths in _WIDTHS.items() for width in widths]
    if image_size.shorter <= SMALL_IMAGE:
        networks += [
            Architecture(name=name, width=width, stem="strided")
            for name, widths in _STRIDED.items()
            for width in widths
        ]
    networks += [Architecture(name=name) for name in _OTHERS]
    return [Candidate(network, image_size) for network in networks]


def chosen_candidates(
    recipe: Recipe,
    given: Sequence[str | Mapping[str, Any]] = (),
    file: Path | None = None,
    sizes: Sequence[SizeLike] = (),
) -> list[Candidate]:
    """Return the candidates of a search: the user's, or the curated list with the recipe's own student.

    Args:
        recipe: its student and resolution are the defaults.
        given: names or mappings, or their YAML; a list in a mapping stands for each of its values.
        file: a YAML file with a list of them.
        sizes: resolutions for every candidate that names none; empty: the recipe's.

    Raises:
        RecipeError: one is not valid, or not in the recipe, or there are too many.
    """
    wanted = [_size(size, "--image-size") for size in sizes] or [recipe.data.image_size]
    entries = [(entry, f"--candidate {entry}") for entry in given]
    parsed: list[tuple[Any, str]] = [
        (_read(entry, where) if isinstance(entry, str) else dict(entry), where) for entry, where in entries
    ]
    if file is not None:
        parsed += _of_file(file)
    found = [candidate for entry, where in parsed for size in wanted for candidate in _expanded(entry, where, size)]
    if not parsed:
        own = recipe.distill.student
        found = [Candidate(own, size) for size in wanted] + [c for size in wanted for c in curated(size)]
    unique = list({candidate.name: candidate for candidate in found}.values())
    if len(unique) > MOST:
        raise RecipeError(
            f"{len(unique):,} candidates are too many: a search has at most {MOST:,}", "give fewer values"
        )
    for candidate in unique:
        _check_in_recipe(candidate, recipe)
    return unique


def _check_in_recipe(candidate: Candidate, recipe: Recipe) -> None:
    """Refuse a student that the recipe does not allow, before it is measured: if it won, its recipe could not be read.

    Raises:
        RecipeError: says what does not fit.
    """
    content = candidate.in_recipe(recipe).model_dump(mode="json", by_alias=True)
    try:
        parse(content, f"candidate {candidate.name}")
    except RecipeError as error:
        raise RecipeError(error.message, "change the recipe, or leave the candidate out") from error


def _of_file(file: Path) -> list[tuple[Any, str]]:
    try:
        content = _read(read_text(file, _MOST_BYTES), str(file))
    except Unreadable as error:
        raise RecipeError(
            f"{file}: {'no such file' if error.missing else error.reason}", "give a YAML file with a list of candidates"
        ) from error
    if not isinstance(content, list) or not content:
        raise RecipeError(f"{file}: not a list of candidates", _FORM)
    return [(entry, f"{file}: candidate {i + 1}") for i, entry in enumerate(content)]


def _read(text: str, where: str) -> Any:
    try:
        return read_yaml(text)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error.message}", _FORM) from error


def _expanded(entry: Any, where: str, size: ImageSize) -> Iterable[Candidate]:
    """Yield the candidates of one entry: every combination of the values of its lists.

    A list in `image_size` holds resolutions, of which each is a side or a pair.
    """
    if isinstance(entry, str):
        entry = {"name": entry}
    if not isinstance(entry, dict) or not entry.get("name"):
        raise RecipeError(f"{where}: not a candidate", _FORM)
    values = [value if isinstance(value, list) else [value] for value in entry.values()]
    for combination in itertools.islice(itertools.product(*values), MOST + 1):
        yield _checked(dict(zip(entry, combination, strict=True)), where, size)


def _size(value: Any, where: str) -> ImageSize:
    try:
        size = ImageSize.of(value)
    except ValueError:
        size = None
    if size is None or not all(LEAST_SIDE <= side <= MOST_TRAINED for side in size):
        raise RecipeError(
            f"{where}: {_SIZE} {value} is not possible",
            f"give a whole number of pixels from {LEAST_SIDE} to {MOST_TRAINED}, or [height, width]",
        )
    return size


def _checked(keys: dict[str, Any], where: str, default: ImageSize) -> Candidate:
    size = _size(keys.pop(_SIZE, default), where)
    try:
        return Candidate(Architecture.model_validate(keys), size)
    except ValidationError as error:
        raise RecipeError(f"{where}: {first_problem(error)}", _FORM) from error
