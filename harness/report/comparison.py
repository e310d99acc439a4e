"""Comparisons and gates as tables in a terminal. Names are data, never markup."""

from __future__ import annotations

from collections.abc import Iterator

from harness.board import Figure
from harness.comparison import Check, Comparison, GateReport, Outcome, Pair, QualityDifference, Side, SpeedRatio
from harness.metrics import METRICS, MISSING, format_value

COMPARISON_HEADINGS = ("Metric", "First", "Second", "Second against first", "p", "Verdict")
GATE_HEADINGS = ("Outcome", "Dataset", "Model", "Check", "Baseline", "Run", "Drop or ratio", "Why")

_TESTS = {
    "mcnemar": "exact McNemar",
    "randomisation": "approximate randomisation",
    "randomisation_limit": "the normal limit of approximate randomisation",
    "bootstrap": "paired bootstrap over examples and seeds",
    "bootstrap_limit": "the limit of the paired bootstrap",
}
_OUTCOMES: dict[Outcome, str] = {
    "pass": "pass",
    "fail": "FAIL",
    "not_enough_evidence": "not enough evidence",
    "refused": "refused",
    "broken": "BROKEN",
}
_SURE = 0.05  # below this p, corrected, two models are told apart
_LEAST_P = 0.0001  # smaller ones are shown as such


def outcome_words(outcome: Outcome) -> str:
    return _OUTCOMES[outcome]


# --- a comparison -------------------------------------------------------------------------------


def pair_title(pair: Pair) -> str:
    rows = f", {pair.test_rows:,} test examples" if pair.test_rows else ""
    return f"{pair.dataset}{rows}: first {_side(pair.first)}; second {_side(pair.second)}"


def pair_rows(pair: Pair) -> Iterator[tuple[str, ...]]:
    """As `COMPARISON_HEADINGS`."""
    for one in pair.quality:
        values = (format_value(one.metric, one.first), format_value(one.metric, one.second))
        shown = _interval(one.difference, "+.3f")
        yield (METRICS[one.metric].heading, *values, shown, _p(one.p_corrected), _verdict(one))
    for ratio in pair.speed:
        values = (format_value(ratio.metric, ratio.first), format_value(ratio.metric, ratio.second))
        shown = f"× {_interval(ratio.ratio, '.3g')}" if ratio.ratio.value is not None else MISSING
        yield (METRICS[ratio.metric].heading, *values, shown, "", _speed_verdict(ratio))


def comparison_notes(comparison: Comparison) -> Iterator[str]:
    """What the figures mean, what was left out and why."""
    tests = list(dict.fromkeys(one.test for pair in comparison.pairs for one in pair.quality))
    if tests:
        names = ", ".join(_TESTS[test] for test in tests)
        correction = f", Holm-corrected over {comparison.family} tests" if comparison.family > 1 else ""
        yield f"Brackets: {100 * comparison.confidence:.0f} % intervals. p: {names}{correction}."
    for found in comparison.over_datasets:
        yield (
            f"Over {found.datasets} datasets, {METRICS[found.metric].title}: {found.second} minus {found.first} is "
            f"{found.difference:+.3f} on average (Wilcoxon signed-rank p {_p(found.p_corrected)})."
        )
    for note in dict.fromkeys(note for pair in comparison.pairs for note in pair.notes):
        yield f"Note: {note}."
    for left in comparison.left_out:
        yield f"Left out: {left.what}: {left.reason}."


def _side(side: Side) -> str:
    method = "" if side.method == "none" else f" {side.method}"
    seeds = "seed" if len(side.seeds) == 1 else "seeds"
    return f"{side.model}{method} of {side.run} ({seeds} {', '.join(map(str, side.seeds))})"


def _verdict(one: QualityDifference) -> str:
    least = f"; a difference below {one.detectable:.3f} would not show" if one.detectable is not None else ""
    if one.p_corrected >= _SURE:
        return "; ".join(filter(None, (f"not told apart{least}", one.needed)))
    return f"{'second' if one.second > one.first else 'first'} is better"


def _speed_verdict(one: SpeedRatio) -> str:
    ratio = one.ratio
    if ratio.low is None or ratio.high is None:
        verdict = ratio.reason or ""
    elif ratio.low <= 1 <= ratio.high:
        verdict = "not told apart"
    else:
        second = (ratio.low > 1) == METRICS[one.metric].higher_is_better
        verdict = f"{'second' if second else 'first'} is better"
    return "; ".join(filter(None, (verdict, *one.notes)))


# --- a gate -------------------------------------------------------------------------------------


def gate_rows(report: GateReport) -> Iterator[tuple[str, ...]]:
    """As `GATE_HEADINGS`, what did not pass last: the end of a log is what is read."""
    order = list(_OUTCOMES)
    for check in sorted(report.checks, key=lambda check: order.index(check.outcome)):
        values = (MISSING, MISSING)
        if check.metric is not None:
            values = (format_value(check.metric, check.baseline), format_value(check.metric, check.candidate))
        why = "; ".join(filter(None, (check.reason, *check.notes)))
        name = f"{check.model} {check.method}".removesuffix(" none").rstrip()
        yield (outcome_words(check.outcome), check.dataset, name, _limit(check), *values, shown_figure(check), why)


def gate_summary(report: GateReport) -> str:
    counts = [(sum(check.outcome == one for check in report.checks), words) for one, words in _OUTCOMES.items()]
    told = ", ".join(f"{count} {words.lower()}" for count, words in counts if count)
    return f"{outcome_words(report.outcome)}: {report.run} against {report.baseline} ({told})"


def check_name(check: Check) -> str:
    """What tells a check from the others of its dataset."""
    if check.cell is not None:
        return check.cell
    parts = (check.model, "" if check.method == "none" else check.method, check.device if check.device != "cpu" else "")
    return f"{' '.join(filter(None, parts))}: {_limit(check)}"


def shown_figure(check: Check) -> str:
    """ "drop +0.0030 [-0.0040 to +0.0100]", or "ratio 1.05 [0.98 to 1.12]"; empty where there is none."""
    if check.figure is None or check.figure.value is None:
        return ""
    return f"{check.kind} {_interval(check.figure, '+.4f' if check.kind == 'drop' else '.4g')}"


def _limit(check: Check) -> str:
    if check.metric is None or check.limit is None:
        return "the cell" if check.outcome == "broken" else "the data"
    return f"{METRICS[check.metric].title} {check.kind} ≤ {check.limit:g}"


# --- numbers ------------------------------------------------------------------------------------


def _interval(figure: Figure, form: str) -> str:
    """ "0.012 [0.001 to 0.023]": with signs, a dash would be read as one."""
    if figure.value is None:
        return MISSING
    value = f"{figure.value:{form}}"
    if figure.low is None or figure.high is None:
        return value
    return f"{value} [{figure.low:{form}} to {figure.high:{form}}]"


def _p(p: float) -> str:
    return f"< {_LEAST_P}" if p < _LEAST_P else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"
