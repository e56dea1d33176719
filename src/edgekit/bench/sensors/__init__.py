"""The conditions of a measurement, as Linux reports them. A value that is not reported is None, never 0.

Every reader takes the folder that holds `proc`, `sys`, `etc` and `var`, so that it can be tested with recorded trees of other
machines (tests/fixtures/devices).
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
