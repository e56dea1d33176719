"""The conditions that a measurement was made under, as far as Linux tells them; None where it does not, never 0.

Every reader takes the folder that holds `proc`, `sys`, `etc` and `var`, so that the recorded trees of other machines
(tests/fixtures/devices) test it.
"""

from edgekit.bench.sensors.power import PowerMeter
from edgekit.bench.sensors.reading import Reading, conditions, peak_memory, read
from edgekit.bench.sensors.sampler import Energy, Idle, Sampler, SensorTimeline, idle

__all__ = [
    "Energy",
    "Idle",
    "PowerMeter",
    "Reading",
    "Sampler",
    "SensorTimeline",
    "conditions",
    "idle",
    "peak_memory",
    "read",
]
