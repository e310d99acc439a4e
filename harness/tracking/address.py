"""The address of an MLflow store, as the user gives it: checked before a run starts, and fit to be kept and shown."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from urllib.parse import unquote_plus, urlsplit

from harness.errors import InputError, SetupError
from harness.tracking.credentials import check_credentials
from runner.contract import slug

SERVERS = ("http", "https")
DATABASES = ("postgresql", "mysql", "mssql")
SECRET_WORDS = ("password", "passwd", "pwd", "token", "secret")
SQLITE = "sqlite:///"
EXAMPLE = "such as http://localhost:5000 or sqlite:///mlflow.db"
CREDENTIALS = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN)"


def checked_uri(given: str) -> str:
    """Fit for MLflow from any working folder. Raises InputError, also where it may hold a password: it is kept in the
    run folder, and shown. So it does where MLflow's own variables hold what cannot be sent."""
    check_credentials()
    try:
        parts = urlsplit(given)
        scheme, host, query = parts.scheme.partition("+")[0], parts.hostname, unquote_plus(parts.query).lower()
    except ValueError:  # its words quote the address
        raise _no_address(given) from None
    if not given.isprintable():
        raise _no_address(given)
    if given == "databricks" or (scheme in (*SERVERS, "databricks") and host):
        return _server(given)
    if any(word in query for word in SECRET_WORDS):
        raise _holds_password()
    if parts.scheme == "sqlite":
        return _sqlite(given)
    if scheme in DATABASES and host:
        return _database(given)
    if scheme in ("", "file"):
        raise InputError(
            f"{_shown(given)} is a folder or file: MLflow has given up folders as stores",
            f"give an address {EXAMPLE}; `mlflow server --backend-store-uri sqlite:///mlflow.db` shows it",
        )
    raise _no_address(given)


def _server(given: str) -> str:
    if "@" in given:
        raise InputError(
            "the address of the MLflow server holds a user or password, which would be kept and shown",
            f"{CREDENTIALS} instead",
        )
    if "?" in given or "#" in given:
        raise InputError(
            "the address of an MLflow server has a '?' or '#', after which a password may stand",
            f"give its part before that; what proves who you are: {CREDENTIALS}",
        )
    return given


def _database(given: str) -> str:
    """SQLAlchemy takes all up to the last @ for the user and the password, with what ends a host elsewhere."""
    if ":" in given.partition("://")[2].rpartition("@")[0]:
        raise _holds_password()
    return given


def _shown(given: str) -> str:
    """What cannot be told apart may be a password."""
    return "that" if any(mark in given for mark in "@?#") else f"'{given}'"


def _no_address(given: str) -> InputError:
    return InputError(f"{_shown(given)} is no address of an MLflow store", f"give one {EXAMPLE}")


def _holds_password() -> InputError:
    return InputError(
        "the address of the MLflow store holds a password, which would be kept and shown",
        "let an MLflow server speak with the database, or leave the password to the database's own file (~/.pgpass)",
    )


def _sqlite(given: str) -> str:
    path = given.removeprefix(SQLITE)
    if path in (given, "", ":memory:"):
        raise InputError(f"{_shown(given)} names no file", "give sqlite:///FILE, or sqlite:////FOLDER/FILE")
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
