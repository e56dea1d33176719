"""The inputs of each stage. Two stages with equal inputs are the same stage: skipping, reusing and refusing to mix old models with a new
recipe rely on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from edgekit.data.splits import Splits
from edgekit.errors import RunError
from edgekit.files import digest_of
from edgekit.models.checkpoints import digest_of_weights
from edgekit.models.pretrained import published_source
from edgekit.recipe import OF_PRETRAINING, OWN, PRETRAINED, Consistency, Distill, Finetune, Recipe, settled
from edgekit.recipe.from_teacher import DistillConfig
from edgekit.run import Run, StageRecord
from edgekit.tasks import MULTILABEL
from edgekit.train.distill.teachers import identity
from edgekit.train.pretrain.teacher import teacher_identity

# Increase it when a change makes the same recipe train other weights, so that old stages do not count as new ones.
_TRAINING_VERSION = 4
# Increase it when a default of the stage changes: it distinguishes records with today's defaults from records with earlier ones.
_DEFAULTS = {"finetune": 1, "distill": 2}


def stage_inputs(stage: str, recipe: Recipe, splits: Splits, run: Run) -> dict[str, Any]:
    """Return everything that the outputs of a stage depend on: parts of the recipe, digests of images and of earlier weights.

    Args:
        stage: one of `edgekit.stages.STAGES`.
        recipe: what to train.
        splits: the recipe's images.
        run: its earlier stages are complete.

    Raises:
        RunError: an earlier stage is missing or damaged.
        RecipeError: a file of weights or a teacher is missing.
    """
    recipe = settled(recipe, len(splits.pool), len(splits.labeled))
    labeled: dict[str, Any] = {"labeled": splits.labeled.digest, "classes": splits.classes}
    pool: dict[str, Any] = {"pool": splits.pool.digest}
    if stage == "data":
        sets = {name: getattr(splits, name) for name in ("pool", "labeled", "probe", "test")}
        return {
            # Without the keys that define how images are read: the digests cover the content.
            "data": _data(recipe, {"stream", "torchvision_root", "download", "pixel_range", "max_pixels"}),
            "digests": {name: s.digest for name, s in sets.items()},
            "names": digest_of([*(s.names for s in sets.values()), [(s.path, s.reason) for s in splits.skipped]]),
            "classes": splits.classes,
        }
    common = {
        "config": _config(stage, recipe),
        "seed": recipe.seed,
        "pixels": {
            "preprocessing": _json(recipe.data.preprocessing(), without={"pixel_range"}),
            "mean": recipe.data.mean,
            "std": recipe.data.std,
        },
        "training_version": _TRAINING_VERSION,
    }
    if stage in {"pretrain", "anomaly"}:
        return {**pool, **common, **_encoder_inputs(stage, recipe, run)}
    if recipe.task == MULTILABEL:
        common["multilabel"] = _json(recipe.multilabel)
    if stage in _DEFAULTS:
        common["defaults"] = _DEFAULTS[stage]
    if stage == "finetune":
        # The probe set chooses between two models. The digest of the pool is new: `from` covers it, except for two pools with equal weights.
        return {"from": _weights(run, "pretrain"), **labeled, **pool, "probe": splits.probe.digest, **common}
    if stage == "distill":
        config = recipe.distill
        images: dict[str, Any] = pool if config.images != "labeled" else {}
        probed = [source for source in config.teachers if source.model == OF_PRETRAINING]
        by_labels = config.labeled_weight or config.images != "unlabeled" or probed
        images |= labeled if by_labels else {"classes": splits.classes}
        own = [source for source in config.teachers if source.model == OWN]
        others = [identity(source, run) for source in config.teachers if not source.of_this_run]
        if probed and isinstance(recipe.pretrain, DistillConfig):
            others.append({"probed": teacher_identity(recipe.pretrain.teacher, run), "of": len(probed)})
        start = {"from": _weights(run, "finetune"), "own": len(own)} if own else {}
        if recipe.student_starts_as_encoder:
            start["start"] = _weights(run, "pretrain")
        return {**start, "teachers": others, **images, **common}
    student = _json(recipe.distill.student, without={"weights", "weights_key"})
    _leave_out_newer({"student": student})
    return {"student": student, **labeled, **common}


def _data(recipe: Recipe, without: set[str]) -> dict[str, Any]:
    """Return the recipe's data, without what older records lack where it is at its default."""
    content = _json(recipe.data, without=without)
    for key, default in (("classes_per_image", "one"), ("normal", None)):
        if content[key] == default:
            del content[key]
    return content


def _encoder_inputs(stage: str, recipe: Recipe, run: Run) -> dict[str, Any]:
    """The teacher that an encoder is distilled from, or the encoder that a detector is built on; empty where the recipe's part says all."""
    if stage == "anomaly":
        return {"from": _weights(run, "pretrain")} if recipe.anomaly.encoder is None else {}
    if isinstance(recipe.pretrain, DistillConfig):
        return {"teacher": teacher_identity(recipe.pretrain.teacher, run)}
    return {}


_SET_OF = {"unlabeled": "pool", "labeled": "labeled"}  # of `distill.images`

# What earlier versions did not record: keys of a stage's inputs, and keys of its part of the recipe.
_NEW_INPUTS = {"finetune": {"pool", "probe"}, "distill": {"start"}}
_NEW_KEYS = {
    "finetune": {"linear_first", "layer_decay", "freeze_batchnorm", "ema", "consistency", "fallback"},
    "distill": {"mixup", "start"},
}
# Earlier defaults, before any record said which: a recipe without these keys meant these values.
_STRONG_CROPS = {"crop_scale": [0.08, 1.0]}
_EARLIER_DEFAULTS: dict[str, dict[str, Any]] = {
    "finetune": {"keep_projection_layers": 1, "augmentation": _STRONG_CROPS},
    "distill": {"augmentation": _STRONG_CROPS},
}


def made_from(record: StageRecord, inputs: dict[str, Any]) -> bool:
    """Return whether a complete stage was made from these inputs; a key that is newer than the record counts as its default.

    Args:
        record: of the complete stage.
        inputs: the current `stage_inputs`.
    """
    digests = [inputs, *_as_older(record, inputs)]
    return any(record.digest == digest_of(one) for one in digests)


def differs(record: StageRecord, inputs: dict[str, Any], images: Mapping[str, int]) -> str:
    """What sets a stage of an older edgekit apart from one that this edgekit would train; empty where nothing does.

    Such a stage stays complete in its own run, where an upgrade trains nothing again. It is not copied into another one.

    Args:
        record: of a complete stage for which `made_from` holds.
        inputs: `stage_inputs` of today.
        images: number of images of each set.
    """
    if record.digest != digest_of(inputs):
        return "trained by an older edgekit, with other defaults and without what this one adds"
    config = inputs.get("config", {})
    if (
        record.stage == "supervised"
        and "search" not in config
        and images.get("probe")
        and "search" not in record.metrics
    ):
        return "trained with the recipe's own settings alone, before this edgekit chose the best of a few"
    trained_on = {"finetune": "labeled", "supervised": "labeled"}.get(record.stage, "")
    if record.stage == "distill" and config["images"] in _SET_OF:
        trained_on = _SET_OF[config["images"]]
    total = images.get(trained_on, 0)
    if not total or "steps" in record.metrics:  # which is as old as batches that leave no image out
        return ""
    left_out = total % min(config["batch_size"], total)
    what = "labels" if trained_on == "labeled" else "images"
    return (
        f"trained by an older edgekit, which left {left_out:,} of {total:,} {what} out of each epoch"
        if left_out
        else ""
    )


def _as_older(record: StageRecord, inputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the inputs of a stage as older versions recorded them, if the recipe has the defaults of new or changed keys."""
    stage, recorded = record.stage, record.inputs.get("defaults", 0)
    if stage not in _DEFAULTS or "defaults" not in inputs or recorded == inputs["defaults"]:
        return
    today, config = _json(Finetune() if stage == "finetune" else Distill()), inputs["config"]
    _leave_out_newer(today)
    new_keys = _NEW_KEYS[stage]
    if any(config[key] != today[key] for key in new_keys):
        return
    config = {key: value for key, value in config.items() if key not in new_keys}
    rest = {key: value for key, value in inputs.items() if key not in {"defaults", *_NEW_INPUTS[stage]}}
    if recorded:
        yield {**rest, "config": config, "defaults": recorded}
        return
    yield {**rest, "config": config}
    yield {**rest, "config": _with_earlier(config, today, _EARLIER_DEFAULTS[stage])}


def _with_earlier(config: dict[str, Any], today: dict[str, Any], earlier: dict[str, Any]) -> dict[str, Any]:
    """Return `config` with earlier defaults in place of today's defaults."""
    changed = dict(config)
    for key, value in earlier.items():
        if isinstance(value, dict):
            changed[key] = _with_earlier(config[key], today[key], value)
        elif config[key] == today[key]:
            changed[key] = value
    return changed


def require_current(stages: Sequence[str], recipe: Recipe, splits: Splits, run: Run) -> dict[str, StageRecord]:
    """Return the records of complete stages that were made from this recipe and these images.

    Raises:
        RunError: one is missing, damaged, or was made from another recipe or other images.
    """
    records = {}
    for stage in stages:
        records[stage] = run.require(stage)
        if not made_from(records[stage], stage_inputs(stage, recipe, splits, run)):
            raise RunError(
                f"{run.path}: the stage {stage} was made from another recipe or other images than {run.recipe_path} now defines",
                f"run `edgekit train {run.recipe_path} --run {run.path}`",
            )
    return records


def _weights(run: Run, stage: str) -> str:
    return run.require(stage).outputs["model.safetensors"]


def _config(stage: str, recipe: Recipe) -> dict[str, Any]:
    """Return a stage's part of the recipe, with the digest of each file in place of its name."""
    content = settled_content(
        getattr(recipe, stage),
        without={
            "distill": {"teachers"},
            "pretrain": {"teacher"},
            "anomaly": {"threshold", "false_alarms"},  # of the export
        }.get(stage),
    )
    _leave_out_newer(content)
    for key in ("encoder", "student"):
        if key in content and content[key] is None:
            continue
        if content.get(key, {}).get("weights_key", "") is None:  # as in records that are older than this key
            del content[key]["weights_key"]
        path = content.get(key, {}).pop("weights", None)
        if path == PRETRAINED:
            content[key]["weights"] = published_source(content[key]["name"], f"{stage}.{key}.name")
        elif path is not None:
            content[key]["weights"] = digest_of_weights(path, f"{stage}.{key}.weights")
    return content


def _leave_out_newer(content: dict[str, Any]) -> None:
    """Take out of a stage's part of the recipe what is at its default and not in records that are older than its key."""
    if content.get("search") is True:
        del content["search"]
    if content.get("train") == "all":
        del content["train"]
    if content.get("tiles", ...) is None:
        del content["tiles"]
    for key in ("encoder", "student"):
        for name, default in (("mean", None), ("std", None), ("interpolate_positions", False), ("channels", None)):
            if content.get(key) is not None and content[key].get(name, ...) == default:
                del content[key][name]
    consistency = content.get("consistency", {})
    if consistency.get("max_gap") == Consistency().max_gap:
        del consistency["max_gap"]


def settled_content(stage: BaseModel, without: set[str] | None = None) -> dict[str, Any]:
    """Return a settled stage's part of the recipe, without the keys for `epochs: auto` and a warm-up by share."""
    content = _json(stage, without={"steps", *(without or ())})
    del content["optimizer"]["warmup"]
    return content


def _json(part: BaseModel, without: set[str] | None = None) -> dict[str, Any]:
    return part.model_dump(mode="json", exclude=without)
