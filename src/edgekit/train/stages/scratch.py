"""The network from scratch with the best of a few settings: a fair baseline for the gain from unlabeled images.

A few settings are trained, and the one with the highest accuracy on the probe set is stored: those of the recipe, then other crops
(none, mild), then the best of these for three times the epochs. No other network of the run is chosen from so many on the probe set, so the choice
favors the baseline. All settings together see no more images than pretraining.

    STAGE/candidate.json, last.ckpt, history.csv, tensorboard/     the candidate in training
    STAGE/candidates/NAME/                                         complete candidates, until the stage is complete
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.files import copy_file, write_json
from edgekit.foreign import Unreadable, read_json
from edgekit.models.classifier import Classifier
from edgekit.models.store import FILES, save_classifier
from edgekit.recipe import Augmentation, Optimizer, Supervised
from edgekit.shares import percent
from edgekit.terminal import echo
from edgekit.text import counted
from edgekit.train.loop.distributed import broadcast, rank
from edgekit.train.loop.failures import Diverged
from edgekit.train.loop.resumable import CHECKPOINT, EARLIER_SECONDS
from edgekit.train.records.folders import CANDIDATES, CURRENT

LONGER = 3
_RESULT = "result.json"
_LOGS = ("history.csv", "tensorboard")
_MILD = (0.5, 1.0)  # area of a mild crop

# Trains a network with these settings, resuming from a checkpoint in the folder; returns it, its last log, and its probe accuracy.
TrainOne = Callable[[Supervised, Path], tuple[Classifier, dict[str, Any], float]]


@dataclass(frozen=True)
class BaselineCandidate:
    """One of the settings: its name, and its part of the recipe."""

    name: str
    config: Supervised


def crops(config: Supervised) -> list[BaselineCandidate]:
    """Return the settings of the recipe, then those with other crops if they differ."""
    own = config.augmentation
    cropped = {
        "mild": own.model_copy(update={"crop": 1.0, "crop_scale": _MILD}),
        "none": own.model_copy(update={"crop": 0.0}),
    }
    candidates = [BaselineCandidate("recipe", config)]
    for name, augmentation in cropped.items():
        if _crop(augmentation) != _crop(own):
            candidates.append(BaselineCandidate(name, config.model_copy(update={"augmentation": augmentation})))
    return candidates


def tried_epochs(config: Supervised, epochs: int, images: int, allowed: int) -> int:
    """Return the epochs that a search trains in all, without training: see `search` for the arguments. A candidate that diverges counts."""
    tried = epochs
    for its_epochs in [*[epochs] * (len(crops(config)) - 1), LONGER * epochs]:
        if (tried + its_epochs) * images <= allowed:
            tried += its_epochs
    return tried


def search(
    config: Supervised, epochs: int, images: int, allowed: int, train_one: TrainOne, folder: Path
) -> tuple[list[str], dict[str, Any]]:
    """Train the candidates and store the best; an interrupted search resumes with its current candidate.

    Args:
        config: the recipe's part.
        epochs: of the recipe's own settings.
        images: number of images per epoch.
        allowed: number of images that all candidates together may see; the first one is always trained.
        train_one: trains one candidate.
        folder: the stage's.

    Returns:
        The names of the stage's files, and its metrics: those of the best candidate, and all of them under `search`.
    """
    results: list[dict[str, Any]] = []
    seen, earlier = 0, 0.0

    def run(candidate: BaselineCandidate, its_epochs: int) -> None:
        nonlocal seen, earlier
        if results and seen + its_epochs * images > allowed:
            return
        seen += its_epochs * images
        result = broadcast(_read(folder, candidate.name))
        if result is not None:
            earlier += result["seconds"]
        else:
            try:
                result = _train(candidate, its_epochs, train_one, folder)
            except Diverged:
                if not results:  # the recipe's own settings
                    raise
                return
            earlier += result["metrics"].pop(EARLIER_SECONDS, 0.0)
        results.append(result)

    first = crops(config)
    for candidate in first:
        run(candidate, epochs)
    best = _best(results)
    chosen = next(candidate for candidate in first if candidate.name == best["name"])
    longer = chosen.config.model_copy(update={"epochs": LONGER * epochs, "optimizer": _longer(chosen.config.optimizer)})
    run(BaselineCandidate(f"{chosen.name}-longer", longer), LONGER * epochs)
    best = _best(results)
    _restore(folder / CANDIDATES / best["name"], folder)
    tried = [{key: result[key] for key in ("name", "crop", "crop_scale", "epochs", "probe_top1")} for result in results]
    metrics = {**best["metrics"], "search": tried, "chosen": best["name"], EARLIER_SECONDS: earlier}
    return [*FILES, "history.csv"], metrics


def _longer(optimizer: Optimizer) -> Optimizer:
    """Scale the warm-up with the epochs."""
    warmup = optimizer.warmup_epochs
    return optimizer if warmup is None else optimizer.model_copy(update={"warmup_epochs": LONGER * warmup})


def _train(candidate: BaselineCandidate, epochs: int, train_one: TrainOne, folder: Path) -> dict[str, Any]:
    if rank() == 0:
        if _current(folder) != candidate.name:  # the files here belong to the earlier candidate, which is complete
            _clear(folder)
        write_json(folder / CURRENT, {"candidate": candidate.name})
    broadcast(None)  # no process looks for a checkpoint before it is that of this candidate
    began = time.monotonic()
    model, metrics, accuracy = train_one(candidate.config, folder)
    augmentation = candidate.config.augmentation
    result = {
        "name": candidate.name, "crop": augmentation.crop, "crop_scale": list(augmentation.crop_scale), "epochs": epochs,
        "probe_top1": accuracy, "metrics": metrics, "seconds": time.monotonic() - began + metrics.get(EARLIER_SECONDS, 0.0),
    }  # fmt: skip
    own = folder / CANDIDATES / candidate.name
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir(parents=True)
    save_classifier(own, model)
    for name in _LOGS:
        _copy(folder / name, own / name)
    write_json(own / _RESULT, result)  # last: it marks the candidate as complete
    if rank() == 0:
        echo(
            f"supervised: {candidate.name}, {counted(epochs, 'epoch')}: {percent(accuracy)} on the probe set", err=True
        )
    return result


def _best(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the result with the highest accuracy; of equal ones, the first."""
    return max(results, key=lambda result: float(result["probe_top1"]))


def _read(folder: Path, name: str) -> dict[str, Any] | None:
    """Read the result of a complete candidate of an earlier session; None if it is not complete."""
    own = folder / CANDIDATES / name
    try:
        result = read_json(own / _RESULT)
    except Unreadable:
        return None
    has_all_keys = {"name", "crop", "crop_scale", "epochs", "probe_top1", "metrics", "seconds"} <= set(result)
    return result if has_all_keys and all((own / file).is_file() for file in (*FILES, "history.csv")) else None


def _current(folder: Path) -> str:
    try:
        return str(read_json(folder / CURRENT).get("candidate"))
    except Unreadable:
        return ""


def _clear(folder: Path) -> None:
    (folder / CHECKPOINT).unlink(missing_ok=True)
    (folder / "history.csv").unlink(missing_ok=True)
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)


def _restore(own: Path, folder: Path) -> None:
    """Copy the files of a complete candidate to the stage; may be repeated."""
    for name in (*FILES, *_LOGS):
        _copy(own / name, folder / name)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
    elif source.exists():
        copy_file(source, target)


def _crop(augmentation: Augmentation) -> tuple[float, ...]:
    return (augmentation.crop, *augmentation.crop_scale) if augmentation.crop else (0.0,)
