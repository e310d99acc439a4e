"""Before anything starts: which device, which files are each model's, and every dataset in canonical form.

What is wrong with the user's own input ends the run before it begins; what is missing in this environment (a model that
is not fetched, say) takes only its own cells out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from harness.errors import InputError, SetupError
from harness.executors.choice import Executors
from harness.jobs import USER_FAULTS, Jobs, all_or_none
from harness.scratch import scratch
from harness.suite import Suite
from runner.contract import Choice, DeviceInfo, Failure, ModelSpec, PreparedDataset


@dataclass
class Preflight:
    """What the cells can be built from, and why a model (by alias) or a dataset (by name) cannot be had."""

    info: DeviceInfo
    device: Choice
    models: dict[str, ModelSpec] = field(default_factory=dict)
    datasets: dict[str, PreparedDataset] = field(default_factory=dict)
    missing_models: dict[str, Failure] = field(default_factory=dict)
    missing_datasets: dict[str, Failure] = field(default_factory=dict)

    @property
    def failures(self) -> list[Failure]:
        return [*self.missing_models.values(), *self.missing_datasets.values()]

    def missing(self, model: str, dataset: str) -> Failure | None:
        """Why a cell of these two cannot be had; None if it can."""
        return self.missing_models.get(model) or self.missing_datasets.get(dataset)


async def preflight(suite: Suite, device: str, executors: Executors, notify: Callable[[str], None]) -> Preflight:
    """Answer everything at once. Raises InputError, SetupError."""
    with scratch() as folder:
        jobs = Jobs(executors.jobs, folder)
        async with all_or_none() as group:
            asking = group.create_task(Jobs(executors.cells, folder).device_info())
            fetching = group.create_task(jobs.fetch([model.spec() for model in suite.models]))
            preparing = group.create_task(jobs.prepare(suite.requests))
    info = asking.result()
    if info.missing:
        missing = ", ".join(info.missing)
        if executors.cells.name == "docker":
            raise SetupError(f"the image lacks {missing}", "build it again: moodbench images build --force")
        raise SetupError(
            f"cells cannot run natively: {missing} not installed",
            "pip install 'moodbench[runner]', or run cells in containers: moodbench images build",
        )
    found = Preflight(info=info, device=choose_device(device, info))
    for entry, fetched in zip(suite.models, fetching.result(), strict=True):
        if isinstance(fetched, Failure):
            found.missing_models[entry.alias] = fetched
            continue
        found.models[entry.alias] = fetched.model
        for note in fetched.notes:
            notify(f"{entry.alias}: {note}")
    for request, dataset in zip(suite.requests, preparing.result(), strict=True):
        if isinstance(dataset, Failure):
            found.missing_datasets[request.name] = dataset
            continue
        found.datasets[request.name] = dataset
        for note in dataset.notes:
            notify(f"{request.name}: {note}")
    _refuse(found)
    return found


def _refuse(found: Preflight) -> None:
    """End the run where the user's own input is at fault, or where nothing can run."""
    faults = [failure for failure in found.failures if failure.kind in USER_FAULTS]
    if faults:
        raise InputError("; ".join(f.message for f in faults), faults[0].hint)
    if not (found.models and found.datasets):
        raise SetupError("; ".join(f.message for f in found.failures), found.failures[0].hint)


def choose_device(asked: str, info: DeviceInfo) -> Choice:
    if asked == "auto":
        return Choice(value=info.device, reason=info.device_reason)
    if asked not in info.available:
        raise SetupError(
            f"device '{asked}' was asked for, but this machine offers {', '.join(info.available)}", "use --device auto"
        )
    return Choice(value=asked, reason="asked for")
