"""Measurement: latency in every runtime, sensors, the doctor, remote devices.

The module is also callable: `edgekit.bench(…)` calls `edgekit.api.benching.bench`, which documents the arguments.
"""
