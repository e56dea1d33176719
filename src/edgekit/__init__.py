"""edgekit: from unlabelled images to a small, fast, proven model on your device.

Importing this package loads nothing else; each room is imported where it is used.
"""

__version__ = "0.1.0"
