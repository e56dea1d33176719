"""The doctor: examine this machine's processors, runtimes and sensors, give advice, and check which variants of a bundle run."""

from edgekit.bench.doctor.advice import DoctorAdvice, advice
from edgekit.bench.doctor.findings import Findings, as_json, examine, sensors
from edgekit.bench.doctor.proof import Check, broken, check

__all__ = ["Check", "DoctorAdvice", "Findings", "advice", "as_json", "broken", "check", "examine", "sensors"]
