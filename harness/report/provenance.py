"""How the figures of a report were come by, and where and with what: as HTML."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from harness.board import Leaderboard, SpeedKey
from harness.display.words import duration
from harness.metrics import METRICS, MISSING
from harness.report.html import Child, Html, joined, lines, tag
from harness.report.material import Material, ReportCell, Section
from runner.contract import Provenance

_NORMALISERS = {
    "minmax": "scaled to 0–1 between the smallest and the largest value of the dataset's models",
    "zscore": "centred on the mean of the dataset's models and divided by their standard deviation",
    "robust": "centred on the median of the dataset's models and divided by their interquartile range, "
    "or by their whole range where the middle half is equal",
    "none": "as they are",
}


def methodology(board: Leaderboard) -> Html:
    """What each kind of figure means; the numbers in it are those of this board."""
    percent = f"{100 * board.confidence:g} %"
    entries = {
        "Cell": "One model on one dataset by one method with one seed, in a process or container of its own. Figures "
        "are means over seeds.",
        "Intervals": f"{percent} intervals from {board.replicates:,} resamples of test examples and seeds, the same "
        "for all models of a dataset, so that differences between models are paired. Those of speed come from "
        "the seeds where there are several, from the windows of timing of the only one.",
        "Score": f"{_weights(board)}; columns are {_NORMALISERS[board.normalise]}. That scale is made of the values at "
        "hand and is the same in all resamples; a missing value counts as the worst. The score is relative to the "
        "models it was computed with: it is no absolute figure.",
        "Rank interval": f"Holds a model's true rank with {percent} confidence. P(best) is the share of resamples in "
        "which the model is the best. A tie group holds the models that the data do not tell apart from the best of "
        "the group.",
        "Significance": "All pairs of models of a dataset on the same test examples: exact McNemar with one seed; "
        "with several the normal distribution for what the examples add to the error and Student's t for what the "
        "seeds add. Holm-corrected over all pairs.",
        "Latency": "Single requests at batch 1 and the text's real length, tokenization included, device synchronised, "
        "warm-up left out. A percentile is withheld below the number of requests that its 99 % order-statistic bound "
        "needs: p50 11, p90 64, p95 130, p99 662.",
        "Speed and the machine": "While speed is measured, nothing else of the run works; windows during which "
        f"something else used the machine are repeated. {_noise(board)}",
        "Comparability": "Speed is ranked only among results of the same device, processor, threads, executor, image "
        "and limit of CPUs; quality among those of the same dataset version.",
        "Calibration": "Expected calibration error over 15 bins of equal width of the highest probability "
        "(Guo et al. 2017), seeds pooled.",
    }
    return tag("dl", *(part for name, text in entries.items() for part in (tag("dt", name), tag("dd", text))))


def _weights(board: Leaderboard) -> str:
    parts = [f"{abs(weight):.2f} {METRICS[name].title.lower()}" for name, weight in board.weights.items()]
    signs = ["−" if weight < 0 else "+" for weight in board.weights.values()]
    words = " ".join(f"{sign} {part}" for sign, part in zip(signs, parts, strict=True))
    return words.removeprefix("+ ")


def _noise(board: Leaderboard) -> str:
    floor = board.noise_floor
    if floor is None:
        return "The machine was not calibrated (`moodbench calibrate`), so how large its noise is was not known."
    return (
        f"Differences below {100 * floor.latency_p50:.1f} % in median latency and {100 * floor.throughput:.1f} % in "
        "throughput are noise of this machine, as calibrated."
    )


# --- provenance ---------------------------------------------------------------------------------


def provenance(material: Material) -> Html:
    cells = [cell for section in material.sections for row in section.rows for cell in row.cells]
    run = material.run
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(run.created))
    facts = {"Run": run.name, "Begun": made, "MoodBench": run.version, "Finished cells": str(len(cells))}
    parts: list[Child] = [_facts(facts)]
    if cells:
        parts += [
            _machines([cell.result.provenance for cell in cells]),
            _speed_keys(material.board.speed_keys),
            _packages([cell.result.provenance for cell in cells]),
            _code([cell.result.provenance for cell in cells]),
            _models(cells),
            _datasets(material.sections),
            _cells(cells),
        ]
    return joined([*parts, _suites(run.suites)])


def _facts(facts: Mapping[str, str]) -> Html:
    return tag("dl", *(part for key, value in facts.items() for part in (tag("dt", key), tag("dd", value))))


def _machines(places: Sequence[Provenance]) -> Html:
    def of(where: Provenance) -> tuple[str, ...]:
        # a machine is the same whatever time a cell had
        given = msgspec.structs.replace(where.limits, seconds=None, phase_seconds={})
        limits = {key: value for key, value in msgspec.to_builtins(given).items() if value not in (None, {})}
        return (
            where.cpu_model or MISSING,
            f"{where.cores}, {where.threads} used",
            f"{where.ram_mb / 1024:.1f} GB",
            where.gpu_model or MISSING,
            where.os,
            where.python,
            where.executor,
            where.image_digest or MISSING,
            ", ".join(f"{key} {value}" for key, value in limits.items()) or MISSING,
            where.hostname_hash or MISSING,
        )

    heads = ("Processor", "Cores", "Memory", "GPU", "System", "Python", "Executor", "Image", "Limits", "Host (hash)")
    return _distinct("Machines", heads, map(of, places))


def _speed_keys(keys: Mapping[str, SpeedKey]) -> Html:
    if len(keys) < 2:
        return Html("")
    heads = ("Key", "Device", "Processor", "Threads", "GPU", "Executor", "Image", "CPU limit")
    rows = [
        (name, key.device, key.cpu_model or MISSING, str(key.threads), key.gpu_model or MISSING, key.executor,
         key.image_digest or MISSING, MISSING if key.cpus is None else str(key.cpus))
        for name, key in keys.items()
    ]  # fmt: skip
    return _titled("Places that speed is comparable within", _table(heads, rows))


def _packages(places: Sequence[Provenance]) -> Html:
    versions: dict[str, dict[str, None]] = defaultdict(dict)
    for where in places:
        for name, version in where.packages.items():
            versions[name][version or "not installed"] = None
    rows = [(name, " / ".join(found)) for name, found in sorted(versions.items())]
    return _titled("Packages", _table(("Package", "Version"), rows))


def _code(places: Sequence[Provenance]) -> Html:
    def of(where: Provenance) -> tuple[str, ...]:
        if where.code.commit is None:
            return (MISSING, where.code.reason or MISSING)
        return (where.code.commit, "with changes not committed" if where.code.dirty else "clean")

    return _distinct("MoodBench's own source", ("Commit", "State"), map(of, places))


def _models(cells: Sequence[ReportCell]) -> Html:
    def of(cell: ReportCell) -> tuple[str, ...]:
        where, result = cell.result.provenance, cell.result
        digests = "\n".join(f"{name} {sha256}" for name, sha256 in where.weights_sha256.items())
        total, trained = result.parameters_total, result.parameters_trainable
        return (
            result.model,
            result.method,
            MISSING if total is None else f"{total:,}",
            MISSING if trained is None else f"{trained:,}",
            where.model_revision or MISSING,
            digests or MISSING,
        )

    heads = ("Model", "Method", "Parameters", "Trained", "Revision", "Weights (sha256)")
    return _distinct("Models", heads, map(of, cells))


def _datasets(sections: Sequence[Section]) -> Html:
    rows = []
    for section in sections:
        seeds = sorted({cell.record.seed for row in section.rows for cell in row.cells})
        test = max((row.row.test_rows for row in section.rows), default=0)
        labels = ", ".join(section.label_names)
        rows.append((section.dataset, f"{test:,}", labels, ", ".join(map(str, seeds)), section.fingerprint))
    return _titled("Datasets", _table(("Dataset", "Test rows", "Labels", "Seeds", "Fingerprint (sha256)"), rows))


def _cells(cells: Sequence[ReportCell]) -> Html:
    def of(cell: ReportCell) -> tuple[str, ...]:
        where, attempt = cell.result.provenance, cell.record.attempt
        phases = ", ".join(f"{name} {duration(seconds)}" for name, seconds in cell.result.phases.items())
        number = MISSING if attempt is None else str(attempt.number)
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(where.finished))
        return (cell.result.cell, number, when, phases, cell.result.identity)

    table = _table(("Cell", "Attempt", "Finished (UTC)", "Phases", "Identity (sha256)"), map(of, cells))
    return _folded("The finished cell" if len(cells) == 1 else f"All {len(cells)} finished cells", table)


def _suites(suites: Sequence[Mapping[str, object]]) -> Html:
    def of(suite: Mapping[str, object]) -> Html:
        text = msgspec.json.format(msgspec.json.encode(_given(suite)), indent=2).decode()
        return _folded(f"Settings of suite {suite.get('name', '')}", tag("pre", lines(text, end="\n")))

    return joined(of(suite) for suite in suites)


def _given(value: object) -> object:
    """Without settings that are not given."""
    if isinstance(value, Mapping):
        kept = {key: _given(inner) for key, inner in value.items()}
        return {key: inner for key, inner in kept.items() if inner not in (None, {}, [], (), "")}
    return [_given(inner) for inner in value] if isinstance(value, list | tuple) else value


# --- tables -------------------------------------------------------------------------------------


def _distinct(title: str, heads: Sequence[str], rows: Iterable[tuple[str, ...]]) -> Html:
    """Each different row once, with the number of cells that have it."""
    counts: dict[tuple[str, ...], int] = defaultdict(int)
    for row in rows:
        counts[row] += 1
    return _titled(title, _table((*heads, "Cells"), [(*row, str(count)) for row, count in counts.items()]))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Html:
    head = tag("tr", *(tag("th", name, scope="col") for name in heads))
    body = [tag("tr", *(tag("td", lines(value)) for value in row)) for row in rows]
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body), class_="facts"), class_="wide", tabindex=0)


def _titled(title: str, content: Html) -> Html:
    return joined([tag("h3", title), content])


def _folded(title: str, content: Html) -> Html:
    return tag("details", tag("summary", title), content, class_="folded")
