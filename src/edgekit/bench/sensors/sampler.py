"""Sample the sensors over time: a thread reads them ten times per second during a measurement."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.bench.sensors import clocks, raspberry
from edgekit.bench.sensors.power import PowerMeter
from edgekit.bench.sensors.reading import Reading, conditions, read
from edgekit.bench.sensors.temperature import temperature_files, temperatures
from edgekit.bench.sensors.throttle import ThrottleSensor, throttled_by
from edgekit.processors import affinity

PERIOD_SECONDS = 0.1
IDLE_SECONDS = 2.0


@dataclass
class SensorTimeline:
    """The sensors over time: one list for each, all of the same length; None where a sensor did not answer.

    Attributes:
        began_ns: `time.perf_counter_ns` of the first sample; `seconds` count from there.
        seconds: time of each sample.
        clock_mhz, gpu_clock_mhz: clock of the fastest processor and GPU.
        temperature_c: the hottest sensor's.
        power_w: of `power_source`, between this sample and the last one (RAPL) or at this moment (INA3221, PMIC).
        joules: of `power_source`, since the first sample.
        throttled: whether anything throttled the machine since the last sample.
        throttled_by: the causes, over the whole time.
        power_source: what was measured; empty if there is no power sensor.
        why_no_power: why there is no power sensor.
        cost_seconds: processor time of taking each sample, without programs that it started.
    """

    began_ns: int = 0
    seconds: list[float] = field(default_factory=list)
    clock_mhz: list[float | None] = field(default_factory=list)
    gpu_clock_mhz: list[float | None] = field(default_factory=list)
    temperature_c: list[float | None] = field(default_factory=list)
    power_w: list[float | None] = field(default_factory=list)
    joules: list[float | None] = field(default_factory=list)
    throttled: list[bool | None] = field(default_factory=list)
    throttled_by: list[str] = field(default_factory=list)
    power_source: str = ""
    why_no_power: str = ""
    cost_seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Idle:
    """The machine's power while nothing is measured."""

    watts: float
    seconds: float
    source: str


@dataclass(frozen=True)
class Energy:
    """The energy of a period of time.

    Attributes:
        joules: total energy of `source` over `seconds`.
        idle_watts: power at rest, measured before; None if not measured.
        above_idle_joules: `joules` minus `idle_watts` times `seconds`; None without `idle_watts`. Divided by the number of
            inferences, it is the energy per inference.
    """

    source: str
    seconds: float
    joules: float
    idle_watts: float | None

    @property
    def above_idle_joules(self) -> float | None:
        return None if self.idle_watts is None else self.joules - self.idle_watts * self.seconds


class Sampler:
    """Sample the sensors in the background, from `with Sampler() as sampler:` to the end of the block.

    Args:
        root: where `proc`, `sys`, `etc` and `var` are.
        period: seconds between two samples.
    """

    def __init__(self, root: Path = Path("/"), period: float = PERIOD_SECONDS) -> None:
        self.timeline = SensorTimeline()
        self._root, self._period = root, period
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edgekit-sensors", daemon=True)
        self._before: Reading | None = None
        self._after: Reading | None = None

    def __enter__(self) -> Sampler:
        self._cpu = clocks.cpu_clock_files(self._root, affinity())
        self._gpu = clocks.gpu_clock_files(self._root)
        self._temperatures = temperature_files(self._root)
        self._throttle = ThrottleSensor(self._root)
        self._meter = PowerMeter(self._root)
        self.timeline.power_source, self.timeline.why_no_power = self._meter.source, self._meter.why_not
        self._before = read(self._root)
        self._last, self._last_read = self._before.throttling, time.monotonic()
        self.timeline.began_ns = time.perf_counter_ns()
        self._sample()  # the first and last samples enclose the block, however short it is
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample(last=True)
        self._after = read(self._root)

    def conditions(self) -> dict[str, Any]:
        """Return `Latency.conditions` of the whole block, including throttling that came and went within it.

        Call it only after the block.
        """
        if self._before is None or self._after is None:
            raise RuntimeError("the sampler has not ended")
        merged = conditions(self._before, self._after)
        if by := list(dict.fromkeys([*self.timeline.throttled_by, *(merged["throttled_by"] or [])])):
            merged |= {"throttled": True, "throttled_by": by}
        return merged

    def energy(
        self, idle: Idle | None = None, since_ns: int | None = None, until_ns: int | None = None
    ) -> Energy | None:
        """Return the energy of the block or of a part of it.

        Args:
            idle: result of `idle()`, measured before.
            since_ns: `time.perf_counter_ns` at the part's beginning; between two samples the energy is interpolated.
            until_ns: `time.perf_counter_ns` at its end.

        Returns:
            None if the machine has no power sensor, or the sensor failed at times or did not change.
        """
        line = self.timeline
        known = [(s, j) for s, j in zip(line.seconds, line.joules, strict=True) if j is not None]
        if len(known) < 2 or len(known) < len(line.seconds):
            return None
        since = known[0][0] if since_ns is None else (since_ns - line.began_ns) / 1e9
        until = known[-1][0] if until_ns is None else (until_ns - line.began_ns) / 1e9
        since, until = max(since, known[0][0]), min(until, known[-1][0])
        if until <= since:
            return None
        joules = _between(known, until) - _between(known, since)
        if joules <= 0:  # some virtual machines show a counter that never changes
            return None
        return Energy(line.power_source, until - since, joules, idle.watts if idle else None)

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            due = max(due + self._period, time.monotonic())  # missed samples are not made up for
            if self._stop.wait(max(0.0, due - time.monotonic())):
                break
            self._sample()

    def _sample(self, last: bool = False) -> None:
        line = self.timeline
        now, began = time.perf_counter_ns(), time.thread_time()
        energy = self._meter.read(now / 1e9)
        hot = temperatures(self._temperatures)
        line.seconds.append((now - line.began_ns) / 1e9)
        line.joules.append(energy[0] if energy else None)
        line.power_w.append(energy[1] if energy else None)
        line.clock_mhz.append(clocks.cpu_clock(self._cpu, self._root))
        line.gpu_clock_mhz.append(clocks.gpu_clock(self._gpu))
        line.temperature_c.append(max(hot.values(), default=None))
        line.throttled.append(self._throttled(last))
        line.cost_seconds.append(time.thread_time() - began)

    def _throttled(self, last: bool) -> bool | None:
        if self._throttle.slow and not last and time.monotonic() - self._last_read < raspberry.PERIOD_SECONDS:
            return self.timeline.throttled[-1] if self.timeline.throttled else None
        state = self._throttle.read()
        by = throttled_by(self._last, state)
        self._last, self._last_read = state, time.monotonic()
        for name in by or []:
            if name not in self.timeline.throttled_by:
                self.timeline.throttled_by.append(name)
        return None if by is None else bool(by)


def idle(seconds: float = IDLE_SECONDS, root: Path = Path("/")) -> Idle | None:
    """Wait, and measure the machine's power meanwhile; None, without waiting, if it has no power sensor.

    Call it before loading anything whose threads could spin.
    """
    if not PowerMeter(root).total:
        return None
    with Sampler(root) as sampler:
        time.sleep(seconds)
    energy = sampler.energy()
    return Idle(energy.joules / energy.seconds, energy.seconds, energy.source) if energy else None


def _between(known: list[tuple[float, float]], seconds: float) -> float:
    """Return the joules at a time, by linear interpolation between two samples."""
    import bisect

    i = min(max(1, bisect.bisect_left(known, (seconds, float("-inf")))), len(known) - 1)
    (t0, j0), (t1, j1) = known[i - 1], known[i]
    return j0 + (j1 - j0) * (seconds - t0) / (t1 - t0) if t1 > t0 else j1
