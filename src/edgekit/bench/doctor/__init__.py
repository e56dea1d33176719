"""What this machine can do: its processors, runtimes and sensors, what to do about them, and which variants of a bundle run."""

from edgekit.bench.doctor.advice import DoctorAdvice, advice
from edgekit.bench.doctor.findings import Findings, as_json, examine, sensors
from edgekit.bench.doctor.proof import Check, broken, check

__all__ = ["Check", "DoctorAdvice", "Findings", "advice", "as_json", "broken", "check", "examine", "sensors"]
