"""From a run's folder to the material of its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.board import Leaderboard, Row
from harness.compare import Significance, significance
from harness.entries import CellRecord, Entry, entries_of
from harness.errors import InputError
from harness.evidence import Evidence, gather
from harness.examples import probabilities, test_examples
from harness.finished import checked_result
from harness.leaderboard import standing_of
from harness.nps import Nps, nps_of
from harness.record import CellEntry, RunRecord
from harness.report.labels import RowKey, labels_of, row_key
from harness.report.material import Disagreement, Material, Reliability, ReportCell, ReportRow, Section
from harness.statistics import FloatArray, IntArray
from harness.store import RunFolder
from runner.contract import ContractError

MOST_DISAGREEMENTS = 200  # of a dataset
TEXT_CHARS = 600
BINS = 15


@dataclass(frozen=True)
class _Texts:
    """Of one dataset's test split, in its order; `missing` says why they cannot be shown."""

    ids: Sequence[str]
    texts: Sequence[str]
    missing: str | None = None


def gather_material(folder: RunFolder) -> Material:
    """Everything that a report of the run shows. Raises InputError where the folder is no run, its cells contradict
    each other, or a result changed while it was read."""
    standing = standing_of(folder)
    evidence = gather(folder)  # after the ranking: of a run that goes on it has what that has, and perhaps more
    run = folder.read_record()
    found, no_nps = _nps(evidence)
    return Material(
        run=run,
        board=standing.board,
        sections=tuple(_sections(run, standing.board, evidence.records)),
        nps=found,
        no_nps=no_nps,
        failures=standing.failures,
        missing=standing.missing,
    )


def _nps(evidence: Evidence) -> tuple[tuple[Nps, ...], str | None]:
    try:
        return nps_of(evidence), None
    except InputError as error:
        return (), f"{error.message}; {error.hint}"


# --- sections -----------------------------------------------------------------------------------


def _sections(run: RunRecord, board: Leaderboard, records: Sequence[CellRecord]) -> Iterator[Section]:
    versions: dict[tuple[str, str], list[Row]] = {}
    for row in board.rows:
        versions.setdefault((row.dataset, row.fingerprint), []).append(row)
    cells = _cells(run, records)
    labels = labels_of(board)
    for (dataset, fingerprint), rows in versions.items():
        here = [record for record in records if (record.dataset, record.fingerprint) == (dataset, fingerprint)]
        yield _section(rows, _entries_as_ranked(rows, here), labels, cells)


def _entries_as_ranked(rows: Sequence[Row], records: Sequence[CellRecord]) -> tuple[Entry, ...]:
    """Without what has arrived since. Raises InputError where something has gone."""
    ranked = {(row_key(row), seed) for row in rows for seed in row.seeds}
    found = {(RowKey(one.model, one.method, one.device), one.seed): one for one in records}
    if not ranked <= found.keys():
        raise InputError("the run changed while it was read", "run the same command again")
    return entries_of([one for one in records if (RowKey(one.model, one.method, one.device), one.seed) in ranked])


def _section(
    rows: Sequence[Row], entries: Sequence[Entry], labels: Mapping[RowKey, str], cells: Mapping[str, ReportCell]
) -> Section:
    by_key = {RowKey(entry.model, entry.method, entry.device): entry for entry in entries}
    ordered = [by_key[row_key(row)] for row in rows]
    scored = {labels[row_key(row)]: entry for row, entry in zip(rows, ordered, strict=True) if entry.scored}
    answers = {label: _first_answers(entry) for label, entry in scored.items()}
    divided = most_divided(np.stack(list(answers.values()))) if len(answers) > 1 else np.empty(0, dtype=np.int64)
    first = ordered[0].records[0]
    texts = _texts(next(iter(scored.values())).scored[0]) if scored else _Texts((), (), "nothing was scored")
    return Section(
        dataset=first.dataset,
        fingerprint=first.fingerprint,
        label_names=first.result.label_names,
        rows=tuple(
            ReportRow(
                row=row,
                label=labels[row_key(row)],
                cells=tuple(cells[one.cell] for one in entry.records),
                reliability=_reliability_of(entry),
            )
            for row, entry in zip(rows, ordered, strict=True)
        ),
        significance=_significance(tuple(scored.values())),
        disagreements=() if texts.missing else _disagreements(divided, answers, scored, texts),
        disagreements_total=divided.size,
        no_texts=texts.missing,
    )


def _cells(run: RunRecord, records: Sequence[CellRecord]) -> dict[str, ReportCell]:
    entries = {entry.cell: entry for entry in run.cells}
    return {record.cell: _whole(record, entries[record.cell]) for record in records}


def _whole(record: CellRecord, entry: CellEntry) -> ReportCell:
    """With what the ranking leaves out of a result. Raises InputError."""
    assert record.attempt is not None  # of a run's folder, not of a baseline
    try:
        return ReportCell(record, checked_result(entry, record.attempt))
    except ContractError as error:
        raise InputError(f"a result changed while it was read: {error}", "run the same command again") from None


def _significance(entries: Sequence[Entry]) -> Significance | None:
    return significance(entries) if len(entries) > 1 else None


# --- calibration --------------------------------------------------------------------------------


def _reliability_of(entry: Entry) -> Reliability | None:
    """None where the probabilities of a seed cannot be read, or none was scored."""
    try:
        found = [(probabilities(record), record.labels) for record in entry.scored]
    except ContractError:
        return None
    if not found:
        return None
    shares = np.concatenate([share for share, _ in found])
    labels = np.concatenate([labels for _, labels in found if labels is not None])
    return reliability(shares, labels)


def reliability(shares: FloatArray, labels: IntArray) -> Reliability:
    """Of probabilities (n, K) and labels (n,): bins of equal width of the highest probability (Guo et al. 2017, eq. 3),
    as the runner's `ece` has them."""
    confidence = shares.max(axis=1)
    correct = shares.argmax(axis=1) == labels
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    rows = np.bincount(bins, minlength=BINS)
    sums = np.bincount(bins, weights=confidence, minlength=BINS)
    hits = np.bincount(bins, weights=correct, minlength=BINS)
    means = np.divide([sums, hits], rows, out=np.full((2, BINS), np.nan), where=rows > 0)
    ece = float(np.abs(sums - hits).sum() / labels.size)
    return Reliability(share=rows / labels.size, confidence=means[0], accuracy=means[1], ece=ece)


# --- disagreements ------------------------------------------------------------------------------


def most_divided(answers: IntArray) -> IntArray:
    """Of answers (M, n): the examples on which not all agree. The likelier two models drawn at random differ (Gini's
    index), the earlier; equal ones in the order of the split."""
    models, examples = answers.shape
    classes = int(answers.max()) + 1
    cells = (np.arange(examples) * classes + answers).ravel()
    votes = np.bincount(cells, minlength=examples * classes).reshape(examples, classes)
    together = np.square(votes).sum(axis=1)  # M² where all agree
    order = np.argsort(together, kind="stable")
    divided: IntArray = order[together[order] < models**2]
    return divided


def _first_answers(entry: Entry) -> IntArray:
    predicted = entry.scored[0].predicted
    assert predicted is not None
    return predicted


def _texts(record: CellRecord) -> _Texts:
    try:
        found = test_examples(record, ("id", "text"))
    except InputError as error:
        return _Texts((), (), f"{error.message}; {error.hint}")
    except ContractError as error:
        return _Texts((), (), str(error))
    return _Texts(found["id"], found["text"])


def _disagreements(
    divided: IntArray, answers: Mapping[str, IntArray], scored: Mapping[str, Entry], texts: _Texts
) -> tuple[Disagreement, ...]:
    first = next(iter(scored.values())).scored[0]
    names, labels = first.result.label_names, first.labels
    assert labels is not None
    return tuple(
        Disagreement(
            id=texts.ids[place],
            text=cut(texts.texts[place]),
            label=names[labels[place]],
            answers={label: names[predicted[place]] for label, predicted in answers.items()},
        )
        for place in divided[:MOST_DISAGREEMENTS].tolist()
    )


def cut(text: str) -> str:
    """At a blank, where one is near."""
    if len(text) <= TEXT_CHARS:
        return text
    head = text[:TEXT_CHARS]
    at = head.rfind(" ", TEXT_CHARS - 40)
    return f"{head[:at] if at > 0 else head} …"
