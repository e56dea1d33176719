"""The sensors, on a machine's files written by the test: Linux PC, Raspberry Pi, and one that tells nothing."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.bench.lock import presence
from edgekit.bench.sensors import conditions, peak_memory, read


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_machine_that_tells_nothing_gives_nulls(tmp_path: Path) -> None:
    reading = read(tmp_path)
    got = conditions(reading, reading)
    assert got == {
        "governor": None,
        "clock_mhz": {"before": None, "after": None},
        "temperature_c": {"before": None, "after": None},
        "load": {"before": None, "after": None},
        "throttled": None,
        "other_cores_busy": None,
    }
    assert peak_memory(tmp_path) is None


def test_a_pc(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu"
    files = {
        f"{cpu}/cpu0/cpufreq/scaling_governor": "performance\n",
        f"{cpu}/cpu0/cpufreq/scaling_cur_freq": "2400000\n",
        f"{cpu}/cpu1/cpufreq/scaling_cur_freq": "3600000\n",
        f"{cpu}/cpu0/thermal_throttle/core_throttle_count": "7\n",
        "sys/class/thermal/thermal_zone0/temp": "41000\n",
        "sys/class/thermal/thermal_zone1/temp": "67500\n",
        "proc/loadavg": "0.52 0.40 0.30 1/200 1234\n",
        "proc/stat": "cpu  1000 0 500 9000 10 0 0 0 0 0\n",
        "proc/self/status": "Name:\tx\nVmHWM:\t    2048 kB\n",
    }
    write(tmp_path, files)
    before = read(tmp_path)
    write(tmp_path, {f"{cpu}/cpu0/thermal_throttle/core_throttle_count": "9\n", "proc/loadavg": "1.9 1 1 1/2 3\n"})
    after = read(tmp_path)
    assert conditions(before, before)["throttled"] is False
    got = conditions(before, after)
    assert got["governor"] == "performance"
    assert got["clock_mhz"]["before"] == 3600
    assert got["temperature_c"]["before"] == 67.5
    assert got["load"] == {"before": 0.52, "after": 1.9}
    assert got["throttled"] is True
    assert peak_memory(tmp_path) == 2048 * 1024


@pytest.mark.parametrize(("flags", "throttled"), [("0x0", False), ("0x50000", False), ("0x4", True), ("0x50005", True)])
def test_a_raspberry_pi(tmp_path: Path, flags: str, throttled: bool) -> None:
    # The high half of the flags says what has happened since the start, the low half what happens now.
    write(tmp_path, {"sys/devices/platform/soc/soc:firmware/get_throttled": flags.removeprefix("0x") + "\n"})
    reading = read(tmp_path)
    assert conditions(reading, reading)["throttled"] is throttled


def test_what_others_kept_busy_is_the_rest_of_the_processors_time(tmp_path: Path) -> None:
    before = replace(read(tmp_path), seconds=100, busy_seconds=50, own_seconds=1)
    after = replace(before, seconds=110, busy_seconds=65, own_seconds=11)
    assert conditions(before, after)["other_cores_busy"] == 0.5
    after = replace(before, seconds=110, busy_seconds=60, own_seconds=11.02)
    assert conditions(before, after)["other_cores_busy"] == 0, "the kernel's ticks are coarse: never below nothing"


def test_this_machine_can_be_read() -> None:
    reading = read()
    assert reading.own_seconds > 0
    if sys.platform == "linux":
        assert reading.busy_seconds is not None
        assert reading.load is not None
        assert (peak_memory() or 0) > 1e7


def test_two_benches_notice_each_other(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    code = (
        "import sys, pathlib; from edgekit.bench.lock import presence\n"
        "with presence(pathlib.Path(sys.argv[1])) as alone:\n"
        "    print(alone(), flush=True); sys.stdin.readline(); print(alone(), flush=True)"
    )
    with presence(lock) as alone:
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
    with presence(lock) as alone:
        assert alone()


def test_where_nothing_can_be_locked_nothing_fails(tmp_path: Path) -> None:
    with presence(tmp_path / "none" / "lock") as alone:
        assert alone()
