"""The sensors, on device trees: a PC, a Jetson, a Raspberry Pi, one that tells nothing; and on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.bench.lock import bench_lock
from edgekit.bench.sensors import Idle, PowerMeter, Sampler, conditions, idle, peak_memory, read
from edgekit.bench.sensors.throttle import ThrottleSensor, throttled_by
from tests.helpers.devices import JETSON, PI, TREES, X86, device, plant
from tests.helpers.patience import until

CPU = "sys/devices/system/cpu"
RAPL = "sys/class/powercap"


def test_a_machine_that_tells_nothing_gives_nulls_and_never_zeros(tmp_path: Path) -> None:
    with Sampler(tmp_path, period=0.01) as sampler:
        samples(sampler, 2)
    got = sampler.conditions()
    nothing = {"before": None, "after": None}
    assert got == {
        "governor": None,
        "power_mode": None,
        "clock_mhz": nothing,
        "gpu_clock_mhz": nothing,
        "temperature_c": nothing,
        "temperatures_c": {},
        "load": nothing,
        "throttled": None,
        "throttled_by": None,
        "throttled_since_start": None,
        "other_cores_busy": None,
    }
    line = sampler.timeline
    assert len(line.seconds) > 2
    for column in (line.clock_mhz, line.gpu_clock_mhz, line.temperature_c, line.power_w, line.joules, line.throttled):
        assert column == [None] * len(line.seconds)
    assert sampler.energy() is None
    assert "no RAPL counter" in line.why_no_power
    assert idle(60, tmp_path) is None, "and nobody waits for it"
    assert peak_memory(tmp_path) is None


def test_a_pc() -> None:
    reading = read(TREES / X86)
    assert reading.governor == "powersave"
    assert reading.clock_mhz == 4400
    assert reading.gpu_clock_mhz is None
    assert reading.power_mode is None
    assert reading.temperatures == {
        "acpitz": 27.8,
        "x86_pkg_temp": 45.0,
        "coretemp Package id 0": 46.0,
        "coretemp Core 0": 44.0,
    }, "the disc and the wireless card are hotter, and no processor"
    assert reading.temperature_c == 46
    assert reading.load == 0.2
    assert reading.throttling.events == {"core too hot": 24, "package too hot": 96}
    assert reading.throttling.now == (), "an idle injector that is off, and a set point, slow nothing down"
    assert conditions(reading, reading)["throttled"] is False
    assert peak_memory(TREES / X86) == 201200 * 1024


def test_a_jetson() -> None:
    reading = read(TREES / JETSON)
    assert (reading.governor, reading.power_mode) == ("schedutil", "25W")
    assert (reading.clock_mhz, reading.gpu_clock_mhz) == (1728, 1020)
    assert reading.temperatures["gpu-thermal"] == 47.812
    assert "cv0-thermal" not in reading.temperatures, "an engine that sleeps reports -256 °C"
    assert reading.temperature_c == 48.562
    assert sum(reading.throttling.events.values()) == 0
    assert conditions(reading, reading)["throttled"] is False
    meter = PowerMeter(TREES / JETSON)
    assert [d.name for d in meter.domains] == ["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"]
    assert meter.source == "INA3221 VDD_IN", "the other rails are parts of it"
    assert meter.read(0.0) == (0.0, 6.0)
    assert meter.read(2.0) == (12.0, 6.0)


@pytest.mark.parametrize(
    ("flags", "throttled", "since"),
    [
        ("0x0", False, []),
        ("0x50000", False, ["under-voltage", "throttled"]),
        ("0x4", True, []),
        ("0x80008", True, ["soft temperature limit"]),
    ],
)
@pytest.mark.parametrize(
    "file",
    [
        "usr/bin/vcgencmd.get_throttled",
        "sys/devices/platform/soc/soc:firmware/get_throttled",
        "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled",
    ],
)
def test_a_raspberry_pi(tmp_path: Path, file: str, flags: str, throttled: bool, since: list[str]) -> None:
    # The high half of the flags says what has happened since the start, the low half what happens now.
    root = device(PI, tmp_path)
    program = file.startswith("usr")
    plant(root, {file: f"throttled={flags}" if program else flags.removeprefix("0x")})
    reading = read(root)
    got = conditions(reading, reading)
    assert got["throttled"] is throttled
    assert got["throttled_since_start"] == (since or None)
    assert reading.clock_mhz == 2400
    assert reading.temperature_c == 52.35


def test_a_raspberry_pis_supply_and_a_program_that_fails(tmp_path: Path) -> None:
    root = device(PI, tmp_path)
    plant(root, {"sys/class/hwmon/hwmon3/in0_lcrit_alarm": 1, "usr/bin/vcgencmd": "#!/bin/sh\nexit 255"})
    reading = read(root)
    assert conditions(reading, reading)["throttled_by"] == ["under-voltage"]
    (root / "sys/class/hwmon/hwmon3/in0_lcrit_alarm").unlink()
    (root / "usr/bin/vcgencmd").unlink()
    reading = read(root)
    assert conditions(reading, reading)["throttled"] is None, "nothing can tell, so nobody says no"


def test_a_raspberry_pis_power_chip_is_asked_once_a_second(tmp_path: Path) -> None:
    root = device(PI, tmp_path)
    meter = PowerMeter(root)
    assert meter.source.startswith("PMIC, all rails")
    watts = 0.08 * 3.3 + 0.15 * 1.8 + 1.2 * 0.75
    assert meter.read(10.0) == pytest.approx((0.0, watts))
    plant(
        root,
        {"usr/bin/vcgencmd.pmic_read_adc": "VDD_CORE_A current(7)=2.0A\nVDD_CORE_V volt(15)=0.5V\nEXT5V_V volt(24)=5V"},
    )
    assert meter.read(10.5) == pytest.approx((0.5 * watts, watts))
    assert meter.read(11.0) == pytest.approx((watts, 1.0))
    assert meter.read(11.5) == pytest.approx((watts + 0.5, 1.0))
    plant(root, {"usr/bin/vcgencmd.pmic_read_adc": ""})
    assert meter.read(12.5) is None
    assert PowerMeter(root).why_not, "an older model has no such chip"


def test_energy_of_a_counter_that_starts_again(tmp_path: Path) -> None:
    root = device(X86, tmp_path)
    meter = PowerMeter(root)
    assert [d.name for d in meter.domains] == ["package-0", "psys", "package-0 core", "package-0 uncore"]
    assert meter.source == "RAPL package-0", "core and uncore are parts of it, psys holds it"
    plant(root, {f"{RAPL}/intel-rapl:0/energy_uj": 262143328850 - 3_000_000})
    assert meter.read(10.0) == (0.0, None), "a counter says nothing about power before its second reading"
    plant(root, {f"{RAPL}/intel-rapl:0/energy_uj": 2_000_000})
    assert meter.read(12.0) == pytest.approx((5.0, 2.5))
    (root / f"{RAPL}/intel-rapl:0/energy_uj").write_text("")
    assert meter.read(13.0) is None


def test_a_counter_that_stands_still_is_no_energy_of_nought(tmp_path: Path) -> None:
    root = device(X86, tmp_path)
    with Sampler(root, period=0.01) as sampler:
        samples(sampler, 2)
    assert sampler.timeline.joules[-1] == 0
    assert sampler.energy() is None
    assert idle(0.03, root) is None


def test_memory_counts_beside_its_package(tmp_path: Path) -> None:
    root = device(X86, tmp_path)
    zone = f"{RAPL}/intel-rapl:0:2"
    plant(root, {f"{zone}/name": "dram", f"{zone}/energy_uj": 7, f"{zone}/max_energy_range_uj": 65712999613})
    assert PowerMeter(root).source == "RAPL package-0 + package-0 dram"


def test_a_jetson_without_a_common_rail_adds_its_rails(tmp_path: Path) -> None:
    root = device(JETSON, tmp_path)
    chip = "sys/class/hwmon/hwmon1"
    plant(root, {f"{chip}/in1_label": "VDD_GPU_SOC", f"{chip}/in2_label": "NC", f"{chip}/in3_label": "VDD_CPU_CV"})
    meter = PowerMeter(root)
    assert meter.source == "INA3221 VDD_GPU_SOC + VDD_CPU_CV"
    assert meter.read(0.0) == pytest.approx((0.0, 7.4))


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, which reads every file."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_counters_that_only_root_may_read_are_named_as_the_reason() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        root = device(X86, Path(folder))
        Path(folder).chmod(0o755)
        for counter in root.glob(f"{RAPL}/*/energy_uj"):
            counter.chmod(0o400 if os.geteuid() == 0 else 0)
        with as_nobody():
            meter = PowerMeter(root)
            assert (meter.read(0.0), meter.source) == (None, "")
            assert meter.why_not == "RAPL's counters (energy_uj) are readable by root only"


def samples(sampler: Sampler, more: int) -> None:
    """Wait for so many samples more, however busy the machine is."""
    enough = len(sampler.timeline.cost_seconds) + more
    until(lambda: len(sampler.timeline.cost_seconds) >= enough)


def test_the_sampler_integrates_what_a_board_draws_and_takes_idle_off(tmp_path: Path) -> None:
    root = device(JETSON, tmp_path)
    at_rest = idle(0.2, root)
    assert at_rest is not None
    assert (at_rest.watts, at_rest.source) == (pytest.approx(6.0), "INA3221 VDD_IN")
    with Sampler(root, period=0.01) as sampler:
        samples(sampler, 3)
        plant(root, {"sys/class/hwmon/hwmon1/curr1_input": 2000})
        until = time.perf_counter_ns()
        samples(sampler, 3)
        since = time.perf_counter_ns()
        samples(sampler, 3)
    whole, part = sampler.energy(at_rest), sampler.energy(at_rest, since)
    assert whole is not None
    assert part is not None
    assert part.joules / part.seconds == pytest.approx(10.0, rel=1e-6)
    assert part.above_idle_joules == pytest.approx(4.0 * part.seconds, rel=1e-6)
    assert 6.0 * whole.seconds < whole.joules < 10.0 * whole.seconds
    before = sampler.energy(None, None, until)
    assert before is not None
    assert before.above_idle_joules is None
    assert before.joules < whole.joules - part.joules
    line = sampler.timeline
    columns = (line.seconds, line.joules, line.power_w, line.clock_mhz, line.cost_seconds)
    assert len({len(column) for column in columns}) == 1
    assert line.seconds == sorted(line.seconds)
    assert 0 < sum(line.cost_seconds) < line.seconds[-1] / 2
    assert Idle(1, 2, "").seconds == 2


@pytest.mark.parametrize(
    ("name", "files", "by"),
    [
        (X86, {f"{CPU}/cpu2/thermal_throttle/core_throttle_count": (4, 4)}, "core too hot"),
        (JETSON, {"sys/class/hwmon/hwmon2/oc3_event_cnt": (5, 5)}, "over-current event oc3"),
        (JETSON, {"sys/class/thermal/cooling_device2/cur_state": (1, 0)}, "cooling device gpu-throttle-alert"),
        (PI, {"sys/devices/platform/soc/soc:firmware/get_throttled": (40004, 40000)}, "throttled"),
    ],
)
def test_planted_throttling_is_flagged_even_if_it_is_over_at_the_end(
    tmp_path: Path, name: str, files: dict[str, tuple[int, int]], by: str
) -> None:
    root = device(name, tmp_path)
    plant(root, {file: 0 for file in files if "firmware" in file})
    with Sampler(root, period=0.005) as sampler:
        samples(sampler, 2)
        plant(root, {file: during for file, (during, _) in files.items()})
        samples(sampler, 2)
        plant(root, {file: after for file, (_, after) in files.items()})
        samples(sampler, 2)
    got = sampler.conditions()
    assert (got["throttled"], got["throttled_by"]) == (True, [by])
    assert sampler.timeline.throttled[0] is False
    assert True in sampler.timeline.throttled
    with Sampler(root, period=0.005) as sampler:
        samples(sampler, 2)
    assert sampler.conditions()["throttled"] is False, "what was before does not count"


@pytest.mark.parametrize(
    ("name", "file", "event"),
    [
        (X86, f"{CPU}/cpu2/thermal_throttle/core_throttle_count", "core too hot"),
        (JETSON, "sys/class/hwmon/hwmon2/oc3_event_cnt", "over-current event oc3"),
    ],
)
def test_a_counter_that_cannot_be_read_for_a_moment_is_what_it_was(
    tmp_path: Path, name: str, file: str, event: str
) -> None:
    root = device(name, tmp_path)
    sensor = ThrottleSensor(root)
    before = sensor.read()
    plant(root, {file: ""})
    during = sensor.read()
    assert during.events == before.events
    plant(root, {file: before.events[event] + 5})
    after = sensor.read()
    assert throttled_by(before, during) == []
    assert throttled_by(during, after) == [event]


def test_what_others_kept_busy_is_the_rest_of_the_processors_time(tmp_path: Path) -> None:
    before = replace(read(tmp_path), seconds=100, busy_seconds=50, own_seconds=1)
    after = replace(before, seconds=110, busy_seconds=65, own_seconds=11)
    assert conditions(before, after)["other_cores_busy"] == 0.5
    after = replace(before, seconds=110, busy_seconds=60, own_seconds=11.02)
    assert conditions(before, after)["other_cores_busy"] == 0, "the kernel's ticks are coarse: never below nothing"


def test_this_machine_can_be_read() -> None:
    with Sampler() as sampler:
        samples(sampler, 1)
    assert len(sampler.timeline.seconds) >= 2
    reading = read()
    assert reading.own_seconds > 0
    if sys.platform == "linux":
        assert reading.busy_seconds is not None
        assert reading.load is not None
        assert (peak_memory() or 0) > 1e7


def test_two_benches_notice_each_other(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    code = (
        "import sys, pathlib; from edgekit.bench.lock import bench_lock\n"
        "with bench_lock(pathlib.Path(sys.argv[1])) as alone:\n"
        "    print(alone(), flush=True); sys.stdin.readline(); print(alone(), flush=True)"
    )
    with bench_lock(lock) as alone:
        assert alone()
        other = subprocess.Popen(
            [sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert other.stdin
        assert other.stdout
        assert other.stdout.readline() == "False\n", "the second one notices the first"
        assert not alone(), "the first one notices the second"
        assert not alone(), "and looking does not let go"
        other.kill()
        other.communicate()
        assert alone(), "a bench that was killed is gone"
    with bench_lock(lock) as alone:
        assert alone()


def test_where_nothing_can_be_locked_nothing_fails(tmp_path: Path) -> None:
    with bench_lock(tmp_path / "none" / "lock") as alone:
        assert alone()
