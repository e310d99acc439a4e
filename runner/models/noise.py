"""What the model libraries print, kept out of a cell's log; what matters of it stands among the choices."""

from __future__ import annotations

import os
import sys
import warnings

SILENCE = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # transformers asks the hub's library
}


def quiet() -> None:
    """Silence logs, progress bars and warnings of transformers, peft and huggingface_hub in this process.

    They read these variables when they are imported, so this imports nothing: a baseline needs none of them.
    """
    os.environ.update(SILENCE)
    if "transformers" in sys.modules:
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
    for module in ("transformers", "peft", "huggingface_hub"):
        warnings.filterwarnings("ignore", module=rf"{module}\.")
