"""The metrics in which two measurements can be compared, each with its spread by chance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgekit import tasks
from edgekit.bench.statistics import SAMPLES_NEEDED
from edgekit.bundle import MANIFEST, SLOWER, Bundle, Manifest, Variant
from edgekit.errors import EdgekitError
from edgekit.result import Evaluation, Latency, Result

Unit = Literal["ms", "images/s", "bytes", "share", "J"]
Draw = Callable[[int, int], NDArray[np.float64]]

# Resampled values over all draws of one metric: as many as take a few seconds.
_MOST_VALUES = 5 * 10**7
_VALUES_AT_ONCE = 2 * 10**6


@dataclass(frozen=True)
class Metric:
    """One number.

    Attributes:
        value: in `unit`; None if it was not measured, or from too few samples.
        unit: of the value; a share is compared in percentage points, everything else in percent.
        draw: (seed, n) -> n values that a repeated measurement could have given; None if the spread is not known.
        draws: number of draws: 2,000, or fewer if the samples are so many that this would take long.
        why: why `value` is None.
    """

    value: float | None
    unit: Unit
    draw: Draw | None = None
    draws: int = 2000
    why: str = ""


@dataclass(frozen=True)
class Measurement:
    """A measurement that can be compared.

    Attributes:
        name: the variant and the options that differ from the default, for display.
        key: equal on both sides for measurements that belong together.
        figures: the metrics by name.
        circumstances: what should be the same on both sides: machine, threads, versions, …
        warnings: the measurement's own warnings.
        source: the file.
    """

    name: str
    key: tuple[Any, ...]
    figures: dict[str, Metric]
    circumstances: dict[str, str]
    warnings: list[str] = field(default_factory=list)
    source: str = ""


def read(path: Path) -> list[Measurement]:
    """Return the measurements in a result file, a folder of them, or a bundle (its accuracies and sizes).

    Raises:
        EdgekitError: there is nothing to compare, or a file is damaged.
    """
    if path.is_dir() and not (path / MANIFEST).is_file():
        files = sorted(path.glob("*.json"))
        measurements = [m for file in files for m in _of_result(file)]
        if not measurements:
            raise EdgekitError(
                f"{path}: has no result of a bench or an evaluation",
                "give a folder that `edgekit bench` wrote, or a bundle",
            )
        return measurements
    if path.is_dir() or path.name == MANIFEST or path.suffix == ".zip":
        return _of_bundle(path)
    measurements = _of_result(path)
    if not measurements:
        raise EdgekitError(
            f"{path}: is neither a latency nor an evaluation",
            "give a file that `edgekit bench` or `edgekit evaluate` wrote",
        )
    return measurements


def _of_result(path: Path) -> list[Measurement]:
    result = Result.read(path)
    measurement = result.measurement
    machine = {"machine": f"{result.machine.cpu}, {result.machine.cores} cores"}
    if isinstance(measurement, Latency):
        return [_of_latency(measurement, machine, str(path))]
    if isinstance(measurement, Evaluation):
        return [_of_evaluation(measurement, str(path))]
    return []


def _of_latency(latency: Latency, machine: dict[str, str], source: str) -> Measurement:
    resampled = _Resampled(latency)
    figures = {name: _percentile(resampled, name, needed) for name, needed in SAMPLES_NEEDED.items()}
    figures["mean"] = Metric(
        latency.mean_ms, "ms", lambda seed, draws: resampled.of("mean", seed, draws) / 1e6, resampled.draws
    )
    figures["throughput"] = _throughput(latency, resampled)
    figures |= {name: Metric(value, "ms", why="not measured") for name, value in latency.stages_ms.items()}
    figures["peak_rss"] = Metric(latency.peak_rss_bytes, "bytes", why="not measured")
    figures["energy"] = Metric(latency.energy_joules_per_inference, "J", why="no sensor")
    figures["accuracy"] = _share(latency.accuracy, latency.accuracy_samples)
    unusual = [
        f"{name} {value}"
        for name, value, usual in (
            ("", latency.scenario, "single-stream"), ("batch", latency.batch, 1), ("threads", latency.threads, 0),
            ("streams", latency.streams, 1), ("on", latency.provider, None),
        )
        if value != usual
    ]  # fmt: skip
    settings = (latency.scenario, latency.batch, latency.threads, latency.streams, latency.query, latency.provider)
    return Measurement(
        name=", ".join([latency.variant, *(text.strip() for text in unusual)]),
        key=("latency", latency.variant, *settings),
        figures=figures,
        circumstances={
            **machine,
            "scenario": latency.scenario,
            "batch": str(latency.batch),
            "threads": str(latency.threads or "the runtime's choice"),
            "streams": str(latency.streams),
            "affinity": ",".join(map(str, latency.affinity)),
            "runtime": f"{latency.runtime} {latency.runtime_version}",
        },
        warnings=latency.warnings,
        source=source,
    )


def _of_evaluation(evaluation: Evaluation, source: str) -> Measurement:
    figures, task = {}, tasks.find(evaluation.task)
    for score in evaluation.scores:
        shots = f".{score.shots}-shot" if score.shots else ""
        counted = not score.shots and (task.counted or score.metric not in task.metrics)
        figures[f"{score.model}{shots}.{score.metric}"] = _share(score.value, score.samples if counted else None)
    for model in ("student", "teacher"):  # the run's accuracy is the student's, if there is one
        if (name := f"{model}.{task.metric}") in figures:
            figures["accuracy"] = figures[name]
            break
    return Measurement(
        "evaluation", ("evaluation",), figures, {"test set": evaluation.data.rpartition(": ")[2]}, [], source
    )


def _of_bundle(path: Path) -> list[Measurement]:
    manifest = Bundle.open(path).manifest
    return [_of_variant(variant, manifest, str(path)) for variant in manifest.variants]


def _of_variant(variant: Variant, manifest: Manifest, source: str) -> Measurement:
    accuracy, counted = variant.accuracy, tasks.find(manifest.task).counted
    return Measurement(
        variant.id,
        ("variant", variant.id),
        {
            "accuracy": _share(
                accuracy.value if accuracy else None, accuracy.samples if accuracy and counted else None
            ),
            "size": Metric(float(variant.bytes), "bytes"),
        },
        {"test set": f"{manifest.accuracy.samples if manifest.accuracy else 0} images"},
        [f"{variant.id} was rejected at export"] if variant.status == "rejected" else _slower(variant),
        source,
    )


def _slower(variant: Variant) -> list[str]:
    """What the export says of INT8 that is slower than float, with the reason."""
    if variant.speed is None or variant.speed.outcome != "slower":
        return []
    return [f"{variant.id} is {note}" for note in variant.note.split("; ") if note.startswith(SLOWER)]


class _Resampled:
    """Statistics of resampled latencies, by a two-step bootstrap, because latencies of one process are correlated, and those of
    neighboring samples even more. Processes (rounds) are drawn with replacement and, within each, blocks of neighbors; a block is
    as long as the square root of the number of samples (moving-block bootstrap, Künsch 1989). All statistics use the same draws."""

    def __init__(self, latency: Latency) -> None:
        self.samples = np.asarray(latency.samples_ns, dtype=np.float64)
        parts = np.split(self.samples, np.cumsum(latency.rounds)[:-1])
        ends = np.cumsum([0, *(len(part) for part in parts)])
        self.rounds = [(int(ends[i]), len(part)) for i, part in enumerate(parts) if len(part)]
        self.known: dict[tuple[int, int], dict[str, NDArray[np.float64]]] = {}

    @property
    def draws(self) -> int:
        """Number of draws: 2,000, or fewer if the samples are so many that this would take long."""
        return int(np.clip(_MOST_VALUES // max(1, len(self.samples)), 200, 2000))

    def of(self, statistic: str, seed: int, count: int) -> NDArray[np.float64]:
        """Return `count` values of a percentile or of the mean, in nanoseconds."""
        if (seed, count) not in self.known:
            self.known[seed, count] = self._draw(np.random.default_rng(seed), count)
        return self.known[seed, count][statistic]

    def _draw(self, generator: np.random.Generator, count: int) -> dict[str, NDArray[np.float64]]:
        names = list(SAMPLES_NEEDED)
        statistics: dict[str, NDArray[np.float64]] = {name: np.empty(count) for name in [*names, "mean"]}
        step = max(1, _VALUES_AT_ONCE // max(1, len(self.samples)))
        for start in range(0, count, step):
            part = slice(start, min(start + step, count))
            values = self.samples[self._rows(generator, part.stop - part.start)]
            statistics["mean"][part] = values.mean(axis=1)
            for name, row in zip(names, np.percentile(values, [float(n[1:]) for n in names], axis=1), strict=True):
                statistics[name][part] = row
        return statistics

    def _rows(self, generator: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Return the indices of the samples in each draw, (count, …). Rounds differ a little in length: a draw takes from each as
        many samples as a round has on average."""
        length = sum(size for _, size in self.rounds) // len(self.rounds)
        block = max(1, math.isqrt(length))
        blocks = -(-length // block)
        begins, sizes = np.array(self.rounds).T
        chosen = generator.integers(len(self.rounds), size=(count, len(self.rounds), 1))
        last = np.maximum(sizes[chosen] - block, 0)
        starts = begins[chosen] + np.floor(generator.random((count, len(self.rounds), blocks)) * (last + 1)).astype(
            np.int64
        )
        rows = starts[..., None] + np.arange(block)
        rows = np.minimum(rows, (begins + sizes - 1)[chosen][..., None])  # a round that is shorter than a block
        return rows.reshape(count, len(self.rounds), -1)[:, :, :length].reshape(count, -1)


def _percentile(resampled: _Resampled, name: str, needed: int) -> Metric:
    count = len(resampled.samples)
    if count < needed:
        return Metric(None, "ms", why=f"{count} samples, but {needed} are needed")
    value = float(np.percentile(resampled.samples, float(name[1:]))) / 1e6
    return Metric(value, "ms", lambda seed, draws: resampled.of(name, seed, draws) / 1e6, resampled.draws)


def _throughput(latency: Latency, resampled: _Resampled) -> Metric:
    if latency.scenario in {"offline", "server"}:
        return Metric(latency.throughput, "images/s")
    images = latency.query or latency.batch

    def draw(seed: int, draws: int) -> NDArray[np.float64]:
        return images * 1e9 / resampled.of("mean", seed, draws)

    return Metric(latency.throughput, "images/s", draw, resampled.draws)


def _share(value: float | None, samples: int | None) -> Metric:
    """Return an accuracy with binomial spread, as from another test set of the same size. Two models that saw the same images
    differ by less than this, so the interval is too wide rather than too narrow."""
    if value is None or not samples:
        return Metric(value, "share", why="not measured")

    def draw(seed: int, draws: int) -> NDArray[np.float64]:
        return np.random.default_rng(seed).binomial(samples, value, size=draws) / samples

    return Metric(value, "share", draw)
