"""Anomaly detectors from normal images: one file for each thing that the methods need."""
