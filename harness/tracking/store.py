"""MLflow at one address: the only module that imports it. It has a client of its own and no global state, and nothing
but that address is contacted."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, get_args

from harness.errors import SetupError
from harness.text import clean
from harness.tracking.address import artifact_folder, require_mlflow
from harness.tracking.cells import CELL, DIGEST, RUN_CREATED, Status, TrackedCell
from harness.tracking.credentials import check_credentials, masked
from harness.tracking.database import make_database

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun
    from mlflow.tracking import MlflowClient

WHOLE = get_args(Status)  # set last: until then an MLflow run is RUNNING
MESSAGE_CHARS = 300
# MLflow would try for four minutes to reach a server that is not there. What the user has set holds.
PROBING = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true"}
SILENT = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}  # standard output is ours, whatever the user has set

T = TypeVar("T")


@dataclass(frozen=True)
class Present:
    """An MLflow run of ours. `digest`: of the file it was made of; None: it is not whole."""

    run_id: str
    digest: str | None


@dataclass(frozen=True)
class Known:
    """An experiment, and what it holds of a run, by cell."""

    experiment_id: str
    runs: Mapping[str, Sequence[Present]] = field(default_factory=dict)


@contextmanager
def opened(uri: str) -> Iterator[Store]:
    """The store, which has answered. Neither telemetry is sent, nor anything logged, nor warned of what MLflow's own
    dependencies deprecate. Raises InputError, SetupError."""
    require_mlflow()
    check_credentials()
    with _settings(QUIET), _settings(SILENT, over=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _settings(PROBING):
            _asked(uri, lambda: make_database(uri, _connect))
            store = Store(uri, _asked(uri, lambda: _connect(uri)))
        with _settings(PATIENCE):
            yield store


def _connect(uri: str) -> MlflowClient:
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # it may have been imported before
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.search_experiments(max_results=1)  # a client alone has not asked anyone
    return client


@dataclass(frozen=True)
class Store:
    """Methods raise SetupError."""

    uri: str
    _client: MlflowClient = field(repr=False)
    runs_a_page: int = 1_000

    def known(self, experiment: str, run_created: float) -> Known:
        """The experiment, made where there is none, and what it holds of the run that was created then."""
        return _asked(self.uri, lambda: self._known(experiment, run_created))

    def _known(self, experiment: str, run_created: float) -> Known:
        found = self._client.get_experiment_by_name(experiment)
        if found is None:
            place = artifact_folder(self.uri, experiment)
            return Known(self._client.create_experiment(experiment, artifact_location=place))
        if found.lifecycle_stage != "active":
            raise SetupError(
                f"the experiment '{experiment}' is in MLflow's trash",
                f"`mlflow experiments restore --experiment-id {found.experiment_id}`, or give --experiment NAME",
            )
        runs: dict[str, list[Present]] = defaultdict(list)
        for run in self._runs(found.experiment_id, run_created):
            tags = run.data.tags
            digest = tags.get(DIGEST) if run.info.status in WHOLE else None
            runs[tags.get(CELL, "")].append(Present(run.info.run_id, digest))
        return Known(found.experiment_id, runs)

    def _runs(self, experiment_id: str, run_created: float) -> Iterator[MlflowRun]:
        ours = f"tags.`{RUN_CREATED}` = '{run_created!r}'"
        token: str | None = None
        while True:
            page = self._client.search_runs([experiment_id], ours, max_results=self.runs_a_page, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def add(self, experiment_id: str, cell: TrackedCell, artifacts: Path) -> None:
        """All that the folder `artifacts` holds goes with it."""
        _asked(self.uri, lambda: self._add(experiment_id, cell, artifacts))

    def _add(self, experiment_id: str, cell: TrackedCell, artifacts: Path) -> None:
        from mlflow.entities import Metric, Param

        client = self._client
        run = client.create_run(experiment_id, start_time=cell.started_ms, tags=dict(cell.tags), run_name=cell.name)
        run_id = run.info.run_id
        params = [Param(*item) for item in cell.params.items()]
        metrics = [Metric(point.name, point.value, point.t_ms, point.step) for point in cell.points]
        client.log_batch(run_id, metrics, params, synchronous=True)  # it makes the calls as large as a store takes them
        client.log_artifacts(run_id, str(artifacts))
        client.set_terminated(run_id, status=cell.status, end_time=cell.ended_ms)

    def discard(self, run_ids: Sequence[str]) -> None:
        """Into MLflow's trash, from which they can be restored."""
        _asked(self.uri, lambda: deque(map(self._client.delete_run, run_ids), maxlen=0))


def _asked(uri: str, ask: Callable[[], T]) -> T:
    """MLflow's databases, clouds and drivers raise whatever they like."""
    try:
        return ask()
    except SetupError:
        raise
    except Exception as error:
        raise _problem(uri, error) from error


def _problem(uri: str, error: Exception) -> SetupError:
    said = clean(masked(str(error)).strip().partition("\n")[0])[:MESSAGE_CHARS] or type(error).__name__
    if "Max retries exceeded" in said:
        start = "`mlflow server --backend-store-uri sqlite:///mlflow.db` starts one"
        return SetupError(f"cannot reach MLflow at {uri}", f"check the address, and that a server runs there; {start}")
    hint = "check the address, and what the store's own log says"
    if isinstance(error, ModuleNotFoundError):
        hint = f"install the package that has '{error.name}'"
    elif re.search(r"table \w+ already exists", str(error)):
        hint = "MLflow was killed while it made or upgraded this database: move it away, or bring back your copy"
    elif "db upgrade" in str(error):
        hint = f"keep a copy of the database, then `mlflow db upgrade {uri}`"
    return SetupError(f"MLflow at {uri} refused: {said}", hint)


@contextmanager
def _settings(values: Mapping[str, str], *, over: bool = False) -> Iterator[None]:
    """MLflow takes these from the environment alone. `over`: also in place of what is set."""
    before = {name: os.environ.get(name) for name in values}
    own = [name for name in values if over or before[name] is None]
    os.environ.update({name: values[name] for name in own})
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)
        os.environ.update({name: value for name, value in before.items() if name in own and value is not None})
