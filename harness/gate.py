"""The regression gate: is a run at least as good as its baseline, but for a margin?

Each check is a test of non-inferiority by its 95 % interval (one-sided at 2.5 %): it passes when the whole interval
lies within the limit, fails when all of it lies beyond, and otherwise the data do not tell. The gate passes when every
check does. That needs no correction for their number: to pass wrongly, every check whose limit is truly exceeded must
pass wrongly, which is no more likely than for one of them (intersection–union; Berger, "Multiparameter Hypothesis
Testing and Acceptance Sampling", 1982). To fail wrongly grows likelier with their number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from harness.board import Figure, NoiseFloor
from harness.comparison import Check, GateReport, Outcome
from harness.errors import ExitCode, InputError, MoodBenchError
from harness.evidence import Evidence
from harness.metrics import CONFUSION_METRICS, METRICS, PROBABILITY_METRICS, SPEED_METRICS, metric_named
from harness.pairs import CONFIDENCE, REPLICATES, SharedExamples, needed, scored_seeds, seed_notes
from harness.ratios import Ratio, speed_ratio
from harness.record import CellEntry
from harness.selection import Match, Selection, label_of, matching

EXIT_CODES: Mapping[Outcome, ExitCode] = {
    "broken": ExitCode.CELL_FAILED,
    "refused": ExitCode.USAGE,
    "fail": ExitCode.GATE_FAILED,
    "not_enough_evidence": ExitCode.NOT_ENOUGH_EVIDENCE,
    "pass": ExitCode.OK,
}
"""In order of precedence: the first that any check comes to is that of the gate."""

DEFAULT_DROPS: Mapping[str, float] = {"accuracy": 0.01, "f1": 0.01}
"""The limits where none is given."""

_BASELINE, _RUN = "the baseline", "the run"


@dataclass(frozen=True)
class Limits:
    """`drops`: quality metric -> by how much it may fall below the baseline's. `ratios`: metric of speed or memory ->
    how many times worse than the baseline's it may be."""

    drops: Mapping[str, float]
    ratios: Mapping[str, float]


def limits_of(drops: Sequence[tuple[str, float]], ratios: Sequence[tuple[str, float]]) -> Limits:
    """From metrics, by name or alias, and their limits; the defaults where none is given. Raises InputError."""
    if not drops and not ratios:
        return Limits(DEFAULT_DROPS, {})
    return Limits(_named(drops, "--max-drop"), _named(ratios, "--max-ratio"))


def gate(candidate: Evidence, baseline: Evidence, limits: Limits) -> GateReport:
    """Hold every model of the baseline, on each of its datasets, to the limits.

    A cell of the run that failed or has not ended breaks the gate, and so does a model that only the baseline has. What
    only the run has is left out. A model with fewer seeds than in the baseline does not pass; one seed on both sides
    may, and a note says that the interval then leaves out how much training varies. Raises InputError where the
    baseline has no finished cell.
    """
    if not baseline.records:
        raise InputError(f"the baseline '{baseline.name}' has no finished cell", "give a run that has finished")
    found = matching(Selection(_BASELINE, baseline), Selection(_RUN, candidate))
    checks = [*_broken_cells(candidate)]
    checks += _without_counterpart(
        baseline, candidate, found.matches, {(check.dataset, check.model, check.method) for check in checks}
    )
    for group in _by_version(found.matches):
        checks += _version_checks(group, limits, (baseline.noise_floor, candidate.noise_floor))
    outcome: Outcome = next(one for one in EXIT_CODES if one == "pass" or any(c.outcome == one for c in checks))
    return GateReport(
        run=candidate.name,
        baseline=baseline.name,
        outcome=outcome,
        exit_code=int(EXIT_CODES[outcome]),
        confidence=CONFIDENCE,
        replicates=REPLICATES,
        checks=tuple(sorted(checks, key=lambda check: (check.dataset, check.model, check.method))),
        left_out=tuple(one for one in found.left_out if one.reason == f"only in {_RUN}"),
    )


def refusal(run: str, baseline: str, error: MoodBenchError) -> GateReport:
    """Of a gate that held nothing to anything, with the error as its only check."""
    check = msgspec.structs.replace(_broken("", run, "", "", f"{error.message} ({error.hint})", "refused"), cell=run)
    return GateReport(
        run=run,
        baseline=baseline,
        outcome="refused",
        exit_code=int(error.exit_code),
        confidence=CONFIDENCE,
        replicates=REPLICATES,
        checks=(check,),
        left_out=(),
    )


def _named(given: Sequence[tuple[str, float]], option: str) -> dict[str, float]:
    """Raises InputError for a metric that the option does not hold, or two limits of one metric."""
    allowed = CONFUSION_METRICS if option == "--max-drop" else SPEED_METRICS
    limits: dict[str, float] = {}
    for text, limit in given:
        metric = metric_named(text)
        if metric.name in limits:
            raise InputError(f"{option} gives '{text}' two limits", "give each metric once")
        if metric.name not in allowed:
            raise InputError(f"{option} cannot hold {metric.title}: {_why_not(metric.name)}", _instead(metric.name))
        limits[metric.name] = limit
    return limits


def _why_not(metric: str) -> str:
    if metric in PROBABILITY_METRICS:
        return "it comes from probabilities, and a baseline keeps predictions, so that it has no interval"
    if metric in SPEED_METRICS:
        return "speeds and memory are held to a ratio"
    return "shares of right answers are held to a drop" if metric in CONFUSION_METRICS else "it has no paired interval"


def _instead(metric: str) -> str:
    if metric in SPEED_METRICS:
        return f"--max-ratio {metric}=1.1"
    return f"--max-drop {metric if metric in CONFUSION_METRICS else 'f1'}=0.01"


# --- what broke ---------------------------------------------------------------------------------


def _broken_cells(candidate: Evidence) -> Iterator[Check]:
    """Cells of the run that failed, or have not run to their end."""
    planned = {entry.cell: entry for entry in candidate.folder.read_record().cells} if candidate.folder else {}
    for failure in candidate.failures:
        reason = f"{failure.cell} failed ({failure.kind}): {failure.message}"
        yield _broken_cell(failure.cell, planned.pop(failure.cell, None), reason)
    for record in candidate.records:
        planned.pop(record.cell, None)
    for cell, entry in planned.items():
        yield _broken_cell(cell, entry, f"{cell} has not run to its end")


def _broken_cell(cell: str, entry: CellEntry | None, reason: str) -> Check:
    """Without an entry it never began, and its name is all there is (`RunRecord.unavailable`)."""
    known = (entry.dataset, entry.model, entry.method, entry.device) if entry else ("", cell, "", "")
    return msgspec.structs.replace(_broken(*known, reason), cell=cell)


def _broken(dataset: str, model: str, method: str, device: str, reason: str, outcome: Outcome = "broken") -> Check:
    return Check(
        outcome=outcome,
        dataset=dataset,
        model=model,
        method=method,
        device=device,
        metric=None,
        kind=None,
        limit=None,
        baseline=None,
        candidate=None,
        figure=None,
        reason=reason,
    )


def _without_counterpart(
    baseline: Evidence, candidate: Evidence, matches: Sequence[Match], told: set[tuple[str, str, str]]
) -> Iterator[Check]:
    """What only the baseline has, but for what is already told of; refused where the run has other data under the same
    name, broken where it has nothing."""
    met = {(match.fingerprint, match.first) for match in matches}
    theirs = Selection(_RUN, candidate).versions()
    for dataset, versions in Selection(_BASELINE, baseline).versions().items():
        others = theirs.get(dataset, {})
        for fingerprint, entries in versions.items():
            for entry in entries:
                if (fingerprint, entry) in met or (dataset, entry.model, entry.method) in told:
                    continue
                if others and fingerprint not in others:
                    shown = " and ".join(key[:12] for key in others)
                    reason = f"not the same data: fingerprint {fingerprint[:12]} against {shown}"
                    yield _broken(dataset, entry.model, entry.method, entry.device, reason, "refused")
                else:
                    reason = f"{label_of(entry)} is not in the run"
                    yield _broken(dataset, entry.model, entry.method, entry.device, reason)


# --- what is held to limits ---------------------------------------------------------------------


def _by_version(matches: Sequence[Match]) -> list[list[Match]]:
    groups: dict[tuple[str, str], list[Match]] = defaultdict(list)
    for match in matches:
        groups[match.dataset, match.fingerprint].append(match)
    return list(groups.values())


def _version_checks(group: Sequence[Match], limits: Limits, floors: Sequence[NoiseFloor | None]) -> Iterator[Check]:
    """Of all matches on one dataset version."""
    shared, problem = None, ""
    try:
        shared = SharedExamples([entry for match in group for entry in (match.first, match.second)])
    except ValueError as error:
        problem = str(error)
    for match in group:
        for metric, limit in limits.drops.items():
            check = _drop(match, metric, limit, shared, problem)
            yield _with_seeds(check, scored_seeds(match.first), scored_seeds(match.second))
        for metric, limit in limits.ratios.items():
            yield _with_seeds(_ratio(match, metric, limit, floors), match.first.seeds, match.second.seeds)


def _with_seeds(check: Check, baseline: Sequence[int], candidate: Sequence[int]) -> Check:
    """A run of fewer seeds than its baseline does not pass: which of them it lacks may not be by chance."""
    if len(candidate) >= len(baseline) or check.outcome == "refused":
        return check
    shown = (", ".join(map(str, seeds)) or "none" for seeds in (candidate, baseline))
    reason = "; ".join(filter(None, (check.reason, "fewer seeds than the baseline: {} against {}".format(*shown))))
    outcome: Outcome = "not_enough_evidence" if check.outcome == "pass" else check.outcome
    return msgspec.structs.replace(check, outcome=outcome, reason=reason)


def _drop(match: Match, metric: str, limit: float, shared: SharedExamples | None, problem: str) -> Check:
    baseline, candidate = match.first, match.second
    if shared is not None:
        unscored = [label_of(entry) for entry in (baseline, candidate) if not entry.scored]
        problem = f"{unscored[0]} has no predictions on the test split" if unscored else problem
        if metric not in shared.metrics:
            problem = f"{METRICS[metric].title} is defined for two classes only"
    if shared is None or problem:
        return _check(match, metric, "drop", limit, outcome="refused", reason=problem)
    found = shared.difference(candidate, baseline, metric)
    figure = Figure(value=found.value, low=found.low, high=found.high)
    outcome, reason = _judged(figure, limit)
    if outcome == "not_enough_evidence":
        reason = "; ".join(filter(None, (reason, needed(found, abs(limit - found.value)).words)))
    return _check(
        match,
        metric,
        "drop",
        limit,
        outcome=outcome,
        reason=reason,
        figure=figure,
        values=(found.second, found.first),
        notes=tuple(seed_notes(baseline, candidate)),
    )


def _ratio(match: Match, metric: str, limit: float, floors: Sequence[NoiseFloor | None]) -> Check:
    """Of the two figures, so that more is worse."""
    if METRICS[metric].higher_is_better:
        found = speed_ratio(metric, match.second, match.first, floors)
        values = (found.second, found.first)
    else:
        found = speed_ratio(metric, match.first, match.second, floors)
        values = (found.first, found.second)
    outcome, reason = _judged_ratio(found, limit)
    return _check(
        match,
        metric,
        "ratio",
        limit,
        outcome=outcome,
        reason=reason,
        figure=found.ratio,
        values=values,
        notes=() if found.disturbed else found.notes,
    )


def _judged_ratio(found: Ratio, limit: float) -> tuple[Outcome, str]:
    if found.refused is not None:
        return "refused", found.refused
    if found.ratio.low is None or found.ratio.high is None:
        return "not_enough_evidence", found.ratio.reason or "not measured"
    if found.disturbed:
        return "not_enough_evidence", "timed while something else used the machine"
    outcome, reason = _judged(found.ratio, limit)
    if outcome == "not_enough_evidence":
        reason += "; more seeds, or more windows of timing, would tell"
    return outcome, reason


def _judged(figure: Figure, limit: float) -> tuple[Outcome, str]:
    """By where the interval lies, and why if it is not within the limit."""
    assert figure.low is not None
    assert figure.high is not None
    if figure.high <= limit:
        return "pass", ""
    if figure.low > limit:
        return "fail", "all of the interval lies beyond the limit"
    return "not_enough_evidence", "the limit lies within the interval"


def _check(
    match: Match,
    metric: str,
    kind: Literal["drop", "ratio"],
    limit: float,
    *,
    outcome: Outcome,
    reason: str,
    figure: Figure | None = None,
    values: tuple[float | None, float | None] = (None, None),
    notes: tuple[str, ...] = (),
) -> Check:
    entry = match.second
    return msgspec.structs.replace(
        _broken(match.dataset, entry.model, entry.method, entry.device, reason, outcome),
        metric=metric,
        kind=kind,
        limit=limit,
        baseline=values[0],
        candidate=values[1],
        figure=figure,
        notes=notes,
    )
