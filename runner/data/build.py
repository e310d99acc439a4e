"""A request -> the rows of its canonical splits, in memory: read, choose columns, label, clean, separate, sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from runner.contract import SPLITS, DatasetRequest, Split, SplitSizes
from runner.data import splits as sp
from runner.data.clean import Cleaned, clean_table, nothing_left
from runner.data.columns import ChosenColumns, choose_columns
from runner.data.labels import check_label_names, look_alikes, order_labels
from runner.data.sources import Source, read_source
from runner.errors import RunnerError

if TYPE_CHECKING:
    import pyarrow as pa


REASONS = {
    "missing_label": "without a label",
    "several_labels": "with several labels",
    "label_not_a_number": "whose label is not a number",
    "no_rule": "that match no label rule",
    "not_in_label_map": "whose label is not in the label map",
    "filtered": "that the filters leave out",
    "empty_text": "without text",
    "in_test": "whose text is in test",
    "in_validation": "whose text is in validation",
    "duplicate": "that repeat an earlier one",
    "conflicting_label": "whose text occurs with different labels",
    "other_split": "of none of the splits used",
}


@dataclass(frozen=True)
class Block:
    """Rows of one split: parallel arrays."""

    ids: Sequence[str]
    texts: Sequence[str]
    labels: sp.Ints
    keys: sp.Keys
    kept: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: sp.Ints | sp.Mask) -> Block:
        """Some rows, by positions or by a mask, in the order given."""
        positions = (np.flatnonzero(rows) if rows.dtype == np.bool_ else rows).tolist()
        kept = {name: [values[row] for row in positions] for name, values in self.kept.items()}
        ids, texts = [self.ids[row] for row in positions], [self.texts[row] for row in positions]
        return Block(ids, texts, self.labels[rows], self.keys[rows], kept)


@dataclass(frozen=True)
class Built:
    """What `prepare` writes."""

    blocks: dict[Split, Block]
    label_names: tuple[str, ...]
    text_column: str
    label_column: str
    slice_columns: tuple[str, ...]
    dropped: dict[str, int]
    notes: tuple[str, ...]
    revision: str | None

    def tables(self) -> dict[Split, pa.Table]:
        """The Arrow table of each split; a kept column has one type in all of them."""
        import pyarrow as pa

        tables = {}
        for split, block in self.blocks.items():
            columns = {
                "id": pa.array(block.ids, pa.string()),
                "text": pa.array(block.texts, pa.string()),
                "label": pa.array(block.labels, pa.int64()),
            }
            for name, values in block.kept.items():
                kind = self._kept_type(name)
                plain = kind != pa.string()
                columns[name] = pa.array(values if plain else [v if v is None else str(v) for v in values], kind)
            tables[split] = pa.table(columns)
        return tables

    def _kept_type(self, name: str) -> pa.DataType:
        import pyarrow as pa

        values = [value for block in self.blocks.values() for value in block.kept[name] if value is not None]
        kinds = {type(value) for value in values}
        if not kinds or not kinds <= {int, float}:
            return pa.string()
        if kinds == {int}:
            return pa.int64() if max(map(abs, values)) < 2**63 else pa.string()
        return pa.float64()

    def class_counts(self, split: Split) -> dict[str, int]:
        """Rows of each class, by name; classes that the split lacks are 0."""
        return _counts(self.blocks[split].labels, self.label_names)


@dataclass
class _Log:
    """What happened on the way: dropped rows by reason, and sentences for the user."""

    dropped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def drop(self, split: Split, counts: dict[str, int]) -> None:
        counts = {reason: rows for reason, rows in counts.items() if rows}
        self.dropped.update(counts)
        if counts:
            self.notes.append(f"{split}: {_dropped_words(counts)}.")

    def why_few(self) -> str:
        """What to append to a sentence that says that rows are missing."""
        return f"; {_dropped_words(self.dropped)}" if self.dropped else ""


def _dropped_words(counts: Mapping[str, int]) -> str:
    listed = ", ".join(f"{rows:,} {REASONS[reason]}" for reason, rows in counts.items())
    return f"rows dropped: {sum(counts.values()):,} ({listed})"


def build(request: DatasetRequest) -> Built:
    """All splits of a dataset. Raises RunnerError."""
    _check_request(request)
    source = read_source(request)
    order: list[Split] = [split for split in SPLITS if split in source.tables]
    columns = choose_columns(request, [source.tables[split] for split in order])
    log = _Log(Counter(source.dropped), [*source.notes, *columns.notes])
    cleaned = _clean(request, source, columns, log)
    names = order_labels(name for each in cleaned.values() for name in each.labels)
    check_label_names(names, sum(len(each.labels) for each in cleaned.values()), columns.label)
    log.notes += [f"The labels {a!r} and {b!r} differ in case only." for a, b in look_alikes(names)]
    blocks = {split: _block(each, names) for split, each in cleaned.items()}
    blocks = _separate(blocks, log)
    _check_classes(blocks, names, request, log)
    final = _sample(blocks, request, log)
    for split, block in final.items():
        counts = ", ".join(f"{name} {rows:,}" for name, rows in _counts(block.labels, names).items())
        log.notes.append(f"{split}: {len(block):,} rows ({counts}).")
    return Built(
        {split: final[split] for split in SPLITS},
        names,
        columns.text,
        columns.label,
        columns.slices,
        dict(sorted(log.dropped.items())),
        tuple(log.notes),
        source.revision,
    )


def _check_request(request: DatasetRequest) -> None:
    for split in SPLITS:
        size = getattr(request.sizes, split)
        if size is not None and size < 1:
            raise RunnerError(
                "configuration",
                f"dataset {request.name!r} asks for {size} {split} rows",
                "give a number of 1 or more, or null for all there are",
            )


def _clean(request: DatasetRequest, source: Source, columns: ChosenColumns, log: _Log) -> dict[Split, Cleaned]:
    """The usable rows of every table. A test or validation split without any label (as GLUE has them) that nobody
    asked for by name is left out; anything else without usable rows is an error."""
    usable: dict[Split, Cleaned] = {}
    for split, table in source.tables.items():
        cleaned = clean_table(request, table, columns)
        if not cleaned.labels:
            unlabelled = cleaned.dropped.get("missing_label") == len(table.numbers)
            if not unlabelled or split == "train" or request.splits or request.source != "hub":
                raise nothing_left(table, columns, cleaned)
            log.notes.append(f"{split}: {table.origin} has no labels; it is not used.")
            continue
        usable[split] = cleaned
        log.drop(split, cleaned.dropped)
        log.notes += cleaned.notes
    return usable


def _block(cleaned: Cleaned, names: tuple[str, ...]) -> Block:
    """The cleaned rows as arrays, labels as indexes into `names`."""
    index = {name: number for number, name in enumerate(names)}
    labels = np.array([index[name] for name in cleaned.labels], dtype=np.int64)
    return Block(cleaned.ids, cleaned.texts, labels, sp.text_keys(cleaned.texts), cleaned.kept)


def _separate(blocks: dict[Split, Block], log: _Log) -> dict[Split, Block]:
    """No text in two splits, and none twice in train. An official test split stays as it is."""
    result = dict(blocks)
    for split in ("test", "validation"):
        if split in blocks:
            repeated = len(blocks[split]) - len(np.unique(blocks[split].keys))
            if repeated:
                log.notes.append(
                    f"{split}: rows that repeat an earlier text: {repeated:,} (an official split keeps them)."
                )
    if "test" in blocks and "validation" in blocks:
        shared = np.isin(blocks["validation"].keys, blocks["test"].keys)
        result["validation"] = blocks["validation"].take(~shared)
        log.drop("validation", {"in_test": int(shared.sum())})
    pool = blocks["train"]
    for other in ("test", "validation"):
        if other in result:
            shared = np.isin(pool.keys, result[other].keys)
            pool = pool.take(~shared)
            log.drop("train", {f"in_{other}": int(shared.sum())})
    repeats = sp.find_repeats(pool.keys, pool.labels)
    counts = {"duplicate": int(repeats.duplicate.sum()), "conflicting_label": int(repeats.conflicting.sum())}
    log.drop("train", counts)
    result["train"] = pool.take(repeats.keep)
    for split, block in result.items():
        if not len(block):
            raise RunnerError(
                "data",
                f"no {split} rows are left once texts shared with another split and contradictory repeats are removed"
                f"{log.why_few()}",
                "give splits that do not share their texts",
            )
    return result


def _check_classes(blocks: dict[Split, Block], names: tuple[str, ...], request: DatasetRequest, log: _Log) -> None:
    """Every class has a training row, and one for each split that is cut from the pool."""
    counts = _counts(blocks["train"].labels, names)
    for split in ("test", "validation"):
        for name, rows in _counts(blocks[split].labels, names).items() if split in blocks else ():
            if rows and not counts[name]:
                raise RunnerError(
                    "data",
                    f"the class {name!r} occurs in {split} ({rows:,} rows) but never in train{log.why_few()}",
                    "add training rows of it, or drop or merge it with a label_map or filters",
                )
    needed = len(SPLITS) - len(blocks) + 1
    few = {name: rows for name, rows in counts.items() if rows < needed}
    if few and needed == 1:
        raise RunnerError(
            "data",
            f"no training rows of the class {next(iter(few))!r} are left once repeated and shared texts are removed"
            f"{log.why_few()}",
            "add training rows of it, or drop or merge it with a label_map or filters",
        )
    if few:
        listed = ", ".join(f"{name!r} ({rows})" for name, rows in few.items())
        cut = " and ".join(split for split in SPLITS if split not in blocks and split != "train")
        raise RunnerError(
            "data",
            f"too few rows to split dataset {request.name!r}: each class needs {needed} different texts because {cut} "
            f"{'are' if ' and ' in cut else 'is'} cut from train; short of it: {listed}{log.why_few()}",
            "add rows of it, or merge or drop it with a label_map or filters",
        )


def _sample(blocks: dict[Split, Block], request: DatasetRequest, log: _Log) -> dict[Split, Block]:
    """The rows of the final splits, from official ones and from the pool."""
    final: dict[Split, Block] = {}
    ordered = {split: block.take(sp.canonical_order(block.keys, block.labels)) for split, block in blocks.items()}
    train_classes = set(np.unique(ordered["train"].labels).tolist())
    for split in ("test", "validation"):
        if split not in ordered:
            continue
        block = ordered[split]
        size = getattr(request.sizes, split)
        rows = sp.sample(block.labels, size, balanced=request.balanced, seed=request.seed, split=split)
        final[split] = block.take(rows)
        log.notes += _official_notes(split, len(block), len(rows), request.balanced)
        absent = len(train_classes - set(np.unique(block.labels).tolist()))
        if absent:
            log.notes.append(f"{split}: classes that do not occur in it: {absent} of {len(train_classes)}.")
    sharing: list[Split] = [split for split in SPLITS if split not in final]
    wanted = sp.wanted_sizes(request.sizes, sharing)
    pool = ordered["train"]
    for split, rows in sp.cut(pool.labels, wanted, balanced=request.balanced, seed=request.seed).items():
        final[split] = pool.take(rows)
    log.notes += _pool_notes(wanted, {split: len(final[split]) for split in wanted}, len(pool), request)
    return {split: final[split] for split in SPLITS}


def _official_notes(split: Split, there: int, taken: int, balanced: bool) -> list[str]:
    if taken < there:
        how = "balanced" if balanced else "stratified"
        return [f"{split}: {taken:,} of its {there:,} rows were sampled ({how})."]
    if balanced:
        return [f"{split}: the official split is taken whole, so its classes stay as they are."]
    return []


def _pool_notes(
    wanted: dict[Split, int | None], got: dict[Split, int], pool: int, request: DatasetRequest
) -> list[str]:
    """One sentence on what was cut from the training rows, one on sizes that are not as asked. That the default sizes
    are scaled down is no news."""
    notes = []
    cut = [f"{split} ({got[split]:,})" for split in wanted if split != "train"]
    if cut:
        notes.append(f"Cut from the {pool:,} training rows: {' and '.join(cut)}.")
    fewer = [f"{split} {got[split]:,} of {size:,}" for split, size in wanted.items() if size and got[split] < size]
    more = [f"{split} {got[split]:,} for {size:,}" for split, size in wanted.items() if size and got[split] > size]
    if fewer and (request.balanced or request.sizes != SplitSizes()):
        why = "the rarest class limits balanced splits" if request.balanced else f"there are {pool:,} training rows"
        notes.append(f"Fewer rows than asked for, because {why}: {', '.join(fewer)}.")
    if more:
        notes.append(f"More rows than asked for, so that no class is missing: {', '.join(more)}.")
    return notes


def _counts(labels: sp.Ints, names: tuple[str, ...]) -> dict[str, int]:
    return dict(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))
