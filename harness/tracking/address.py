"""The address of an MLflow store, as the user gives it: checked before a run starts, and fit to be kept and shown."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from urllib.parse import unquote, urlsplit

from harness.errors import InputError, SetupError
from harness.tracking.credentials import check_credentials
from runner.contract import slug

SERVERS = ("http", "https")
DATABASES = ("postgresql", "mysql", "mssql")
SECRET_WORDS = ("password", "passwd", "pwd=", "token", "secret")
SQLITE = "sqlite:///"


def checked_uri(given: str) -> str:
    """Fit for MLflow from any working folder. Raises InputError, also where it holds a password: it is kept in the run
    folder, and shown. So it does where MLflow's own variables hold what cannot be sent."""
    check_credentials()
    example = "such as http://localhost:5000 or sqlite:///mlflow.db"
    try:
        parts = urlsplit(given)
        password, query = parts.password, unquote(parts.query).lower()
    except ValueError as error:
        raise InputError(f"that is no address of an MLflow store: {error}", f"give one {example}") from None
    scheme = parts.scheme.partition("+")[0]
    if password is not None or any(word in query for word in SECRET_WORDS):
        raise _holds_password(scheme)
    if parts.scheme == "sqlite":
        return _sqlite(given)
    if given == "databricks" or (scheme in SERVERS and parts.hostname) or scheme in (*DATABASES, "databricks"):
        return given
    if scheme in ("", "file"):
        raise InputError(
            f"'{given}' is a folder or file: MLflow has given up folders as stores",
            f"give an address {example}; `mlflow server --backend-store-uri sqlite:///mlflow.db` shows it",
        )
    raise InputError(f"'{given}' is no address of an MLflow store", f"give one {example}")


def _holds_password(scheme: str) -> InputError:
    remedy = (
        "let an MLflow server speak with the database, or leave the password to the database's own file (~/.pgpass)"
    )
    if scheme in SERVERS:
        remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN) instead"
    return InputError("the address of the MLflow store holds a password, which would be kept and shown", remedy)


def _sqlite(given: str) -> str:
    path = given.removeprefix(SQLITE)
    if path in (given, "", ":memory:"):
        raise InputError(f"'{given}' names no file", "give sqlite:///FILE, or sqlite:////FOLDER/FILE")
    return SQLITE + str(Path(path).absolute())


def artifact_folder(uri: str, experiment: str) -> str | None:
    """Where a new experiment keeps its files: beside an SQLite database, as MLflow's own choice would be below whatever
    folder the command is given in. None: as the server says."""
    if not uri.startswith(SQLITE):
        return None
    return (Path(uri.removeprefix(SQLITE)).parent / "mlartifacts" / slug(experiment)).as_uri()


def require_mlflow() -> None:
    """Raises SetupError where it is not installed."""
    if importlib.util.find_spec("mlflow") is None:
        raise SetupError("tracking needs MLflow, which is not installed", "pip install 'moodbench[tracking]'")
