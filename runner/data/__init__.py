"""Datasets: any source -> canonical splits once (`prepare`), then cheap reading of one split (`read_split`).

Importing this package costs nothing heavy: numpy, pyarrow, datasets and kagglehub are imported by the functions
that need them.
"""

from __future__ import annotations

from runner.data.prepare import prepare
from runner.data.prepared import Rows, read_split

__all__ = ["Rows", "prepare", "read_split"]
