"""Models of the cell: found and checked (`resolve`), loaded (`load`), adapted, merged, saved; and the baselines.

Importing this package is cheap: torch, transformers, peft and scikit-learn are imported by the modules and
functions that need them.
"""

from runner.models.noise import quiet
from runner.models.resolve import resolve

__all__ = ["quiet", "resolve"]
