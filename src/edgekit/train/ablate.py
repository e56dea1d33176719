"""Ablations: a recipe is trained once for each combination of some values; every cell is a run that can be interrupted and resumed.

    FOLDER/{ablation.json, ablation.html, cells/NAME/}

A cell is an ordinary run. Stages that two cells share (pretraining, if only the label budget differs) are trained once and copied.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from edgekit.claims import SharedWork, share
from edgekit.data.splits import Splits, load_splits
from edgekit.errors import DataError, RecipeError, RunError
from edgekit.files import digest_of, write_json
from edgekit.foreign import Unreadable, read_json
from edgekit.models.store import load_classifier, load_pretrained
from edgekit.recipe import DataConfig, Recipe, Transformation, load
from edgekit.result import Ablation, AblationCell, Axis, Score
from edgekit.run import Run
from edgekit.spelling import earlier_key, earlier_value, todays_key, translated_value
from edgekit.stages import MODEL_OF, STAGES
from edgekit.tasks import ANOMALY
from edgekit.text import counted
from edgekit.train.evaluate import LAST, bank_name, bank_of, device_of, encoder_scores, quality_on
from edgekit.train.evaluate.probes import LINEAR, knn_protocol
from edgekit.train.loop.failures import Diverged, OutOfMemory
from edgekit.train.objective import objective_of, of_test
from edgekit.train.stages.pipeline import Report, check, train

FIGURE_5: tuple[Transformation, ...] = ("crop", "cutout", "color", "sobel", "noise", "blur", "rotate")
_SCORES = "cell.json"


@dataclass(frozen=True)
class PlannedCell:
    """A cell to train: its values on the axes, and the recipe with these values."""

    values: list[str]
    recipe: Recipe


@dataclass(frozen=True)
class AblationPlan:
    """The cells of an ablation.

    Args:
        subject: augmentations or values.
        axes: the keys or transformations, with their values.
        cells: every combination.
        until: the last stage to train.
    """

    subject: Any
    axes: list[Axis]
    cells: list[PlannedCell]
    until: str


def plan_augmentations(
    recipe: Path, overrides: Sequence[str], names: Sequence[str], until: str | None = None
) -> AblationPlan:
    """Plan figure 5 of SimCLR: each transformation alone (the diagonal) and each ordered pair.

    Args:
        recipe: the file.
        overrides: of the recipe, as `--set` takes them.
        names: the transformations; empty: those of the figure.
        until: the last stage to train; default pretrain.

    Raises:
        RecipeError: a transformation is unknown or given twice, or the recipe is not valid.
    """
    chosen = translated_value("one_branch", list(names)) or list(FIGURE_5)
    known = get_args(Transformation)
    for name in chosen:
        if name not in known:
            raise RecipeError(f"{name!r} is not a transformation", f"accepted: {', '.join(known)}")
    _refuse_repeated("the transformations", chosen)
    cells = []
    for first, second in itertools.product(chosen, chosen):
        branch = [first] if first == second else [first, second]
        changed = load(recipe, [*overrides, f"pretrain.one_branch=[{', '.join(branch)}]"])
        cells.append(PlannedCell([first, second], changed))
    axes = [Axis(name="first", values=chosen), Axis(name="second", values=chosen)]
    return AblationPlan("augmentations", axes, cells, until or "pretrain")


def plan_values(
    recipe: Path, overrides: Sequence[str], fields: Sequence[str], until: str | None = None
) -> AblationPlan:
    """Plan every combination of the values of some keys of the recipe.

    Args:
        recipe: the file.
        overrides: of the recipe, as `--set` takes them.
        fields: `key.path=v1,v2,…`; commas inside brackets belong to a value.
        until: the last stage to train; default: the stage of all keys, or else the last one.

    Raises:
        RecipeError: a field has no values, is given twice, has no effect up to `until`, or has an invalid value.
    """
    axes = [_axis(field) for field in fields]
    _refuse_repeated("the fields", [axis.name for axis in axes])
    groups = {axis.name.partition(".")[0] for axis in axes}
    own = groups.pop() if len(groups) == 1 else ""
    until = until or (own if own in STAGES[1:] else STAGES[-1])
    for axis in axes:
        group = axis.name.partition(".")[0]
        if group in STAGES and STAGES.index(group) > STAGES.index(until):
            raise RecipeError(
                f"{axis.name} has no effect before the stage {group}", f"give --until {group}, or a later stage"
            )
    cells = []
    for values in itertools.product(*(axis.values for axis in axes)):
        changes = [f"{axis.name}={value}" for axis, value in zip(axes, values, strict=True)]
        cells.append(PlannedCell(list(values), load(recipe, [*overrides, *changes])))
    return AblationPlan("values", axes, cells, until)


def _axis(field: str) -> Axis:
    key, separator, listed = field.partition("=")
    if not separator or not key.strip():
        raise RecipeError(f"{field}: not of the form key.path=v1,v2,…", "write it like pretrain.temperature=0.1,0.5")
    name = todays_key(key.strip())
    values = translated_value(name.rpartition(".")[2], [value.strip() for value in _split(listed)])
    if not all(values):
        raise RecipeError(f"{field}: a value is missing", f"write it like {name}=v1,v2,…")
    _refuse_repeated(name, values)
    return Axis(name=name, values=values)


def _split(text: str) -> list[str]:
    """Split a text at the commas outside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _refuse_repeated(where: str, values: Sequence[str]) -> None:
    repeated = next((v for v in values if values.count(v) > 1), None)
    if repeated is not None:
        raise RecipeError(f"{where}: {repeated} is given twice", "give each once")


def ablate(
    plan: AblationPlan,
    folder: Path,
    *,
    reuse: Sequence[Run] = (),
    storage: str | None = None,
    on_cell: Callable[[Ablation, bool], None] = lambda ablation, trained: None,
    on_wait: Callable[[dict[str, str]], None] = lambda held_by: None,
) -> Ablation:
    """Train and score every cell that is not complete.

    A cell whose loss diverges or whose batch does not fit into memory is recorded as failed; the others are trained.

    Args:
        plan: the cells.
        folder: receives a run folder for each cell.
        reuse: runs whose stages are copied if their inputs are the same.
        storage: shared with other processes, each of which trains some of the cells (see `edgekit.claims.open_storage`); None: not shared.
        on_cell: called after each cell with the results so far, the cell's at the end, and whether it was trained now (not already complete).
        on_wait: called when other processes train the last cells, with their machines by cell.

    Raises:
        EdgekitError: of many kinds; all cells are checked before the first is trained.
    """
    _refuse_other_files(folder)
    cells = _Cells(plan, folder, reuse)
    _check(plan, cells.images, folder)
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    if storage is None:
        for planned in plan.cells:
            cells.add(*cells.train(planned), on_cell)
        return cells.ablation
    named = {cell_name(plan, planned.values): planned for planned in plan.cells}
    kind = SharedWork(storage).kind(f"edgekit ablate {_key(plan)}")
    trained: dict[str, bool] = {}

    def make(name: str) -> tuple[dict[str, Any], float | None]:
        cell, trained[name] = cells.train(named[name])
        return cell.model_dump(mode="json"), next((score.value for score in cell.scores), None)

    def tell(name: str, content: dict[str, Any], here: bool) -> None:
        cells.add(AblationCell.model_validate(content), trained.get(name, False), on_cell)
        if not here:
            cells.reuse_run(cell_run(plan, named[name].values, folder))

    share(kind, list(named), make, tell, on_wait)
    order = [planned.values for planned in plan.cells]
    cells.ablation.cells.sort(key=lambda cell: order.index(cell.values))
    return cells.ablation


def _key(plan: AblationPlan) -> str:
    """What an ablation is, as a digest: the same for every process that shares it."""
    recipes = [planned.recipe.model_dump(mode="json", exclude={"hardware"}) for planned in plan.cells]
    return digest_of([plan.subject, plan.until, recipes])[:16]


class _Cells:
    """Trains the cells of an ablation in this process."""

    def __init__(self, plan: AblationPlan, folder: Path, reuse: Sequence[Run]) -> None:
        self._plan, self._folder = plan, folder
        self._sources, self._scored = list(reuse), _Scored()
        self.images = _Images()
        self.ablation = Ablation(
            subject=plan.subject, recipe=plan.cells[0].recipe.name, data="", until=plan.until, axes=plan.axes,
            planned=len(plan.cells), cells=[],
        )  # fmt: skip

    def train(self, planned: PlannedCell) -> tuple[AblationCell, bool]:
        """Train and score a cell; return it, and whether any stage was trained now."""
        plan, recipe = self._plan, planned.recipe
        run = cell_run(plan, planned.values, self._folder)
        splits = self.images.of(recipe.data)
        cell = AblationCell(values=planned.values, run=str(run.path.relative_to(self._folder)))
        reports: list[Report] = []
        try:
            train(recipe, run, reuse=self._sources, splits=splits, until=plan.until, on_stage=reports.append)
        except (Diverged, OutOfMemory) as error:
            cell.error = str(error)
        else:
            cell.seconds = sum(report.record.seconds for report in reports)
            cell.scores = self._scored.of(run, recipe, splits, reports)
            self._sources.append(run)
        return cell, any(report.outcome == "done" for report in reports)

    def reuse_run(self, run: Run) -> None:
        """Copy stages also from a run that another process trained into the same folder."""
        if run.recipe_path.is_file():
            self._sources.append(run)

    def add(self, cell: AblationCell, trained: bool, on_cell: Callable[[Ablation, bool], None]) -> None:
        """Add a cell to the results."""
        planned = next(planned for planned in self._plan.cells if planned.values == cell.values)
        data, splits = planned.recipe.data, self.images.of(planned.recipe.data)
        self.ablation.data = data.test_set(len(splits.test))
        self.ablation.cells.append(cell)
        on_cell(self.ablation, trained)


def cell_name(plan: AblationPlan, values: Sequence[str]) -> str:
    """Return the name of a cell's run folder: readable and unique."""
    if plan.subject == "augmentations":
        return "+".join(dict.fromkeys(values))
    text = ",".join(f"{axis.name.rpartition('.')[2]}={value}" for axis, value in zip(plan.axes, values, strict=True))
    name = re.sub(r"[^A-Za-z0-9._=,+-]", "_", text)
    if name == text and len(name) <= 100:
        return name
    return f"{name[:80]}-{digest_of([[axis.name for axis in plan.axes], list(values)])[:8]}"


def cell_run(plan: AblationPlan, values: Sequence[str], folder: Path) -> Run:
    """Return the run of a cell in an ablation's folder, also where an earlier version began it under the earlier names."""
    key = "one_branch" if plan.subject == "augmentations" else ""
    axes = [axis.model_copy(update={"name": earlier_key(axis.name)}) for axis in plan.axes]
    keys = [key or axis.name.rpartition(".")[2] for axis in plan.axes]
    before = [earlier_value(key, value) for key, value in zip(keys, values, strict=True)]
    today, earlier = (
        folder / "cells" / name for name in (cell_name(plan, values), cell_name(replace(plan, axes=axes), before))
    )
    return Run(earlier if earlier.is_dir() and not today.is_dir() else today)


def _refuse_other_files(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file", "choose another folder with --run")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "cells").is_dir():
        raise RunError(f"{folder}: is neither empty nor an ablation", "choose another folder with --run")


def _check(plan: AblationPlan, images: _Images, folder: Path) -> None:
    """Check all cells before the first is trained; recipes that are equal in all checked parts are checked once."""
    seen = set()
    for cell in plan.cells:
        recipe = cell.recipe
        if recipe.task == ANOMALY:
            raise RecipeError(
                f"task: {ANOMALY}: an ablation scores each cell on labeled test images, and a detector is trained without classes",
                "train the recipes one by one, and compare them with `edgekit evaluate`",
            )
        if recipe.hardware.devices * recipe.hardware.nodes > 1:
            raise RecipeError(
                "hardware: an ablation trains each cell on one device", "set hardware.devices and hardware.nodes to 1"
            )
        parts = recipe.model_dump(
            mode="json",
            include={"data": True, "pretrain": {"method", "encoder", "batch_size"}, "distill": True, "hardware": True},
        )
        key = digest_of([parts, recipe.pretrain.one_branch is None])
        if key not in seen:
            splits = images.of(recipe.data)
            check(recipe, splits, cell_run(plan, cell.values, folder))
            if not len(splits.test):
                raise DataError(
                    f"data.test: {recipe.data.test}: the test set is empty",
                    "give test images: every cell is scored on them",
                )
        seen.add(key)


class _Images:
    """Cache of the images of the last cell: consecutive cells mostly share them."""

    def __init__(self) -> None:
        self.data: DataConfig | None = None
        self.splits: Splits | None = None

    def of(self, data: DataConfig) -> Splits:
        if self.splits is None or self.data != data:
            self.data, self.splits = data, load_splits(data)
        return self.splits


class _Scored:
    """Scores cells; the same encoder on the same images is measured once."""

    def __init__(self) -> None:
        self.encoders: dict[str, list[Score]] = {}

    def of(self, run: Run, recipe: Recipe, splits: Splits, reports: Sequence[Report]) -> list[Score]:
        records = {report.stage: report.record for report in reports}
        bank, device = bank_of(splits, recipe), device_of(recipe)
        key = digest_of([records["pretrain"].outputs["model.safetensors"], bank.digest, splits.test.digest])
        self.encoders.setdefault(key, _kept(run, key))
        if not self.encoders[key]:
            encoder = load_pretrained(run.stage_path("pretrain"), records["pretrain"].outputs).encoder
            values = encoder_scores(encoder, splits, recipe, device, linear_too=True)
            about = f"bank: {bank_name(splits)}, {counted(len(bank), 'image')}; {LAST}"
            how = {"linear": LINEAR, "knn": knn_protocol(len(bank), len(splits.classes))}
            self.encoders[key] = [
                Score(model="encoder", metric=metric, value=values[metric], samples=len(splits.test),
                      protocol=f"frozen encoder, {how[metric]}; {about}")
                for metric in ("linear", "knn")
            ]  # fmt: skip
        write_json(run.path / _SCORES, {"of": key, "scores": [s.model_dump(mode="json") for s in self.encoders[key]]})
        scores = list(self.encoders[key])
        for report in reports:
            if report.stage in MODEL_OF:
                value = of_test(report.record.metrics)
                if not report.current:  # copied from a run with other test images
                    value = quality_on(
                        load_classifier(run.stage_path(report.stage), report.record.outputs),
                        splits.test,
                        recipe,
                        device,
                    )
                scores.append(
                    Score(model=MODEL_OF[report.stage], metric=objective_of(recipe).metric, value=value, samples=len(splits.test),
                          protocol=f"single center view, {LAST}")
                )  # fmt: skip
        return scores


def _kept(run: Run, key: str) -> list[Score]:
    """Return the scores that an earlier command measured for the same encoder on the same images."""
    try:
        content = read_json(run.path / _SCORES)
        return [Score.model_validate(s) for s in content["scores"]] if content["of"] == key else []
    except (Unreadable, ValueError, KeyError, TypeError):
        return []
