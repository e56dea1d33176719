"""Anomaly detectors: an encoder's intermediate feature maps, and a head that compares them with those of normal images."""
