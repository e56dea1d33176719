"""Power and energy: Intel's and AMD's RAPL counters, the INA3221 monitors of a Jetson, the power chip of a Raspberry Pi 5."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgekit.bench.sensors.files import found, number, raw, text
from edgekit.bench.sensors.raspberry import PERIOD_SECONDS, rails_watts, vcgencmd

# A rail that feeds the whole module: if there is one, the others are parts of it.
_WHOLE = ("VDD_IN", "POM_5V_IN")
# RAPL's package counter includes its subdomains, except its memory.
_BESIDE_PACKAGE = "dram"


@dataclass
class Domain:
    """One energy counter or power rail.

    Attributes:
        name: the kernel's name.
        joules: energy since the first reading.
        watts: power since the last reading (RAPL; None at the first) or now (INA3221).
        answers: whether the last reading succeeded.
    """

    name: str
    joules: float = 0.0
    watts: float | None = None
    answers: bool = False


class Rapl(Domain):
    """A RAPL counter in microjoules, which wraps to 0 above `max_energy_range_uj` (kernel documentation:
    power/powercap/powercap.rst). It must be read at least once per wrap, which takes a minute or more."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name)
        self._file = folder / "energy_uj"
        self._range = number(folder / "max_energy_range_uj") or 0.0
        self._last: tuple[float, float] | None = None

    def read(self, seconds: float) -> None:
        """Add the energy since the last reading; `seconds` is a monotonic time."""
        count = number(self._file)
        self.answers = count is not None and count <= self._range
        if count is None or not self.answers:
            self._last = self.watts = None
            return
        if self._last is not None:
            then, at = self._last
            used = (count - then if count >= then else count - then + self._range) / 1e6
            self.joules += used
            self.watts = used / (seconds - at) if seconds > at else self.watts
        self._last = (count, seconds)


class Rail(Domain):
    """A channel of an INA3221: millivolts times milliamperes (kernel documentation: hwmon/ina3221.rst). Its energy is the
    integral over the readings, by the trapezoidal rule."""

    def __init__(self, name: str, folder: Path, channel: str) -> None:
        super().__init__(name)
        self._volts, self._amperes = folder / f"in{channel}_input", folder / f"curr{channel}_input"
        self._last: float | None = None

    def read(self, seconds: float) -> None:
        """Read the power now and add the energy since the last reading; `seconds` is a monotonic time."""
        millivolts, milliamperes = number(self._volts), number(self._amperes)
        self.answers = millivolts is not None and milliamperes is not None
        if millivolts is None or milliamperes is None:
            self.watts = self._last = None
            return
        watts = millivolts * milliamperes / 1e6
        if self._last is not None and self.watts is not None:
            self.joules += (self.watts + watts) / 2 * (seconds - self._last)
        self.watts, self._last = watts, seconds


class Pmic(Domain):
    """The power chip of a Raspberry Pi 5, read once per second; in between, its last value is used."""

    def __init__(self, program: str) -> None:
        super().__init__("PMIC")
        self._program = program
        self._last_query = self._last = float("-inf")

    def read(self, seconds: float) -> None:
        """Add the energy since the last reading, and query the chip if due; `seconds` is a monotonic time."""
        if self.watts is not None:
            self.joules += self.watts * (seconds - self._last)
        if seconds - self._last_query >= PERIOD_SECONDS:
            self.watts, self._last_query = rails_watts(self._program), seconds
        self.answers, self._last = self.watts is not None, seconds


class PowerMeter:
    """The energy meter of this machine.

    Attributes:
        domains: every counter or rail that can be read.
        total: those that add up to the machine's measured power; none is part of another.
        source: a description of `total`; empty if there is none.
        why_not: the reason if there is none.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        rapl, refused = _rapl(root)
        rails = _rails(root)
        program = vcgencmd(root)
        pmic = [Pmic(program)] if program and rails_watts(program) is not None else []
        self.domains: list[Rapl | Rail | Pmic] = [*rapl, *rails, *pmic]
        self.source = self.why_not = ""
        self.total: list[Rapl | Rail | Pmic] = []
        if rails:
            self.total = [*([rail for rail in rails if rail.name in _WHOLE][:1] or rails)]
            self.source = f"INA3221 {' + '.join(domain.name for domain in self.total)}"
        elif rapl:
            self.total = [d for d in rapl if d.name.endswith(_BESIDE_PACKAGE) or re.fullmatch(r"package-\d+", d.name)]
            self.total = self.total or [*rapl[:1]]
            self.source = f"RAPL {' + '.join(domain.name for domain in self.total)}"
        elif pmic:
            self.total = [*pmic]
            self.source = "PMIC, all rails (without what USB and the 5 V pins draw)"
        else:
            self.why_not = (
                refused or "no RAPL counter (powercap), no INA3221 monitor and no readable PMIC on this machine"
            )

    def read(self, seconds: float) -> tuple[float, float | None] | None:
        """Read the parts of `total` only, because each reading of a Jetson's monitor is a transfer on its bus.

        Args:
            seconds: the time now, monotonic.

        Returns:
            Joules of `total` since the first reading, and watts now (None at a counter's first reading); None if there is
            nothing to read or a part does not answer.
        """
        for domain in self.total:
            domain.read(seconds)
        if not self.total or not all(domain.answers for domain in self.total):
            return None
        watts = [domain.watts for domain in self.total if domain.watts is not None]
        return sum(d.joules for d in self.total), sum(watts) if len(watts) == len(self.total) else None


def _rapl(root: Path) -> tuple[list[Rapl], str]:
    """Return RAPL's counters, and the reason if they cannot be read. The zones are `package-0`, `core`, `dram`, `psys`; those
    below a package get the package's name as prefix."""
    domains: list[Rapl] = []
    refused = ""
    for folder in found(root, "sys/class/powercap/intel-rapl:*"):
        name = text(folder / "name") or folder.name
        package = folder.name.rpartition(":")[0]
        above = text(folder.parent / package / "name") if package != "intel-rapl" else None
        try:
            raw(folder / "energy_uj")
        except PermissionError:
            refused = "RAPL's counters (energy_uj) are readable by root only"
        except OSError:
            continue
        else:
            domains.append(Rapl(f"{above} {name}" if above else name, folder))
    return domains, refused


def _rails(root: Path) -> list[Rail]:
    """Return the named and connected channels of every INA3221. On some kernels in4 to in6 are the shunts' voltages, which
    have no current, and in7 is their sum."""
    rails = []
    for folder in found(root, "sys/class/hwmon/hwmon*"):
        if "ina3221" not in (text(folder / "name") or ""):
            continue
        for label in found(folder, "in*_label"):
            channel = re.fullmatch(r"in(\d)_label", label.name)
            name = text(label)
            if not channel or not name or name == "NC" or "sum of shunt" in name:
                continue
            if (folder / f"curr{channel[1]}_input").exists() and text(folder / f"in{channel[1]}_enable") != "0":
                rails.append(Rail(name, folder, channel[1]))
    return rails
