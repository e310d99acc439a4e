"""The cell side of MoodBench: one process runs one attempt at one cell. Never imports `harness`."""

__version__ = "0.2.0"
