"""What proves to an MLflow server who asks. MLflow takes it from the environment, and its errors may quote it."""

from __future__ import annotations

import base64
import os
import unicodedata
from collections.abc import Iterator

from harness.errors import InputError

USER = "MLFLOW_TRACKING_USERNAME"
SECRETS = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD")
MASK = "***"


def check_credentials() -> None:
    """Raises InputError where one cannot be sent: what refuses it below would quote it."""
    for name in (USER, *SECRETS):
        if any(unicodedata.category(character) == "Cc" for character in os.environ.get(name, "")):
            raise InputError(
                f"{name} holds a line break or another control character", f"set {name} to one line of plain text"
            )


def masked(said: str) -> str:
    """Without what must not be printed or kept, in any form that an error may quote."""
    for form in sorted(set(_forms()), key=len, reverse=True):
        said = said.replace(form, MASK)
    return said


def _forms() -> Iterator[str]:
    user = os.environ.get(USER, "")
    for secret in filter(None, map(os.environ.get, SECRETS)):
        data = secret.encode(errors="surrogateescape")
        yield from (secret, repr(secret)[1:-1], ascii(secret)[1:-1], repr(data)[2:-1])
        yield base64.b64encode(user.encode(errors="surrogateescape") + b":" + data).decode()
