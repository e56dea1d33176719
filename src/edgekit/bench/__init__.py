"""Measuring: latency in every runtime, sensors, the doctor, remote devices.

It can be called, too: `edgekit.bench(…)` is `edgekit.api.benching.bench`, which its signature shows.
"""
