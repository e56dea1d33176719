"""The figures of a measurement that two measurements can be compared in, each with how it could have come out by chance."""

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
from edgekit.bundle import MANIFEST, Bundle, Manifest, Variant
from edgekit.errors import EdgekitError
from edgekit.result import Evaluation, Latency, Result

Unit = Literal["ms", "images/s", "bytes", "share", "J"]
Draw = Callable[[int, int], NDArray[np.float64]]

# Resampled values together, over all draws of one figure: what a few seconds can do.
_MOST_VALUES = 5 * 10**7
_VALUES_AT_ONCE = 2 * 10**6


@dataclass(frozen=True)
class Metric:
    """One number.

    Attributes:
        value: in `unit`; None where it was not measured, or from too few samples.
        unit: of the value; a share is compared in percentage points, everything else in percent.
        draw: (seed, n) -> n values that the same measurement could have given; None where chance is not known.
        draws: how many of them to take: 2,000, fewer where there are so many samples that it would take long.
        why: it is None.
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
        name: for people: the variant and what is not usual about how it was run.
        key: what it shares with its counterpart on the other side.
        figures: by metric.
        circumstances: what should be alike on both sides: machine, threads, versions, …
        warnings: of the measurement itself.
        source: the file.
    """

    name: str
    key: tuple[Any, ...]
    figures: dict[str, Metric]
    circumstances: dict[str, str]
    warnings: list[str] = field(default_factory=list)
    source: str = ""


def read(path: Path) -> list[Measurement]:
    """The measurements in a result file, a folder of them, or a bundle (its accuracies and sizes).

    Raises:
        EdgekitError: nothing there can be compared, or a file is damaged.
    """
    if path.is_dir() and not (path / MANIFEST).is_file():
        files = sorted(path.glob("*.json"))
        found = [m for file in files for m in _of_result(file)]
        if not found:
            raise EdgekitError(
                f"{path}: holds no result of a bench or an evaluation", "give what `edgekit bench` wrote, or a bundle"
            )
        return found
    if path.is_dir() or path.name == MANIFEST or path.suffix == ".zip":
        return _of_bundle(path)
    found = _of_result(path)
    if not found:
        raise EdgekitError(
            f"{path}: is neither a latency nor an evaluation", "give what `edgekit bench` or `edgekit evaluate` wrote"
        )
    return found


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
    for model in ("student", "teacher"):  # what people mean by the accuracy
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
    found, counted = variant.accuracy, tasks.find(manifest.task).counted
    return Measurement(
        variant.id,
        ("variant", variant.id),
        {
            "accuracy": _share(found.value if found else None, found.samples if found and counted else None),
            "size": Metric(float(variant.bytes), "bytes"),
        },
        {"test set": f"{manifest.accuracy.samples if manifest.accuracy else 0} images"},
        [f"{variant.id} was rejected at export"] if variant.status == "rejected" else [],
        source,
    )


class _Resampled:
    """Statistics of resampled latencies, by a bootstrap in two steps, as latencies of one process are alike and neighbors are
    more so: processes (rounds) are drawn with replacement and, within each, blocks of neighbors, as long as the square root of
    its samples (moving-block bootstrap, Künsch 1989). All statistics come from the same draws."""

    def __init__(self, latency: Latency) -> None:
        self.samples = np.asarray(latency.samples_ns, dtype=np.float64)
        parts = np.split(self.samples, np.cumsum(latency.rounds)[:-1])
        ends = np.cumsum([0, *(len(part) for part in parts)])
        self.rounds = [(int(ends[i]), len(part)) for i, part in enumerate(parts) if len(part)]
        self.known: dict[tuple[int, int], dict[str, NDArray[np.float64]]] = {}

    @property
    def draws(self) -> int:
        """2,000, fewer where there are so many samples that it would take long."""
        return int(np.clip(_MOST_VALUES // max(1, len(self.samples)), 200, 2000))

    def of(self, statistic: str, seed: int, count: int) -> NDArray[np.float64]:
        """`count` values of a percentile or of the mean, in nanoseconds."""
        if (seed, count) not in self.known:
            self.known[seed, count] = self._draw(np.random.default_rng(seed), count)
        return self.known[seed, count][statistic]

    def _draw(self, generator: np.random.Generator, count: int) -> dict[str, NDArray[np.float64]]:
        names = list(SAMPLES_NEEDED)
        found: dict[str, NDArray[np.float64]] = {name: np.empty(count) for name in [*names, "mean"]}
        step = max(1, _VALUES_AT_ONCE // max(1, len(self.samples)))
        for start in range(0, count, step):
            part = slice(start, min(start + step, count))
            values = self.samples[self._rows(generator, part.stop - part.start)]
            found["mean"][part] = values.mean(axis=1)
            for name, row in zip(names, np.percentile(values, [float(n[1:]) for n in names], axis=1), strict=True):
                found[name][part] = row
        return found

    def _rows(self, generator: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Which samples each draw takes, (count, …). Rounds differ a little in length: a draw takes as many of each as a round has
        on average."""
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
        return Metric(None, "ms", why=f"{count} samples, {needed} are needed")
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
    """An accuracy; by chance another as many test images would give a binomial share. Two models that saw the same images differ
    by less than that says, so that an interval from it is too wide rather than too narrow."""
    if value is None or not samples:
        return Metric(value, "share", why="not measured")

    def draw(seed: int, draws: int) -> NDArray[np.float64]:
        return np.random.default_rng(seed).binomial(samples, value, size=draws) / samples

    return Metric(value, "share", draw)
