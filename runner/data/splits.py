"""Splitting as pure functions on arrays: repeats, sizes, stratified and balanced samples.

A text's `key` is a 64-bit hash of its normalised form (NFKC, lower case, white space collapsed); two texts are the
same text when their keys are equal. Everything is deterministic under its seed, and independent of the order of the
rows except for which of several equal texts stands for them.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runner.contract import Split, SplitSizes

Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

DEFAULT_SIZES: dict[Split, int] = {"test": 5_000, "validation": 2_000, "train": 10_000}
CUT_ORDER: tuple[Split, ...] = ("test", "validation", "train")  # test rows come off the pool first
STREAMS: dict[Split, int] = {"train": 0, "validation": 1, "test": 2}  # random streams that do not disturb each other


@dataclass(frozen=True)
class Repeats:
    """What is to be done with repeated texts. Masks over the rows."""

    duplicate: Mask  # a later row with the text and the label of an earlier one
    conflicting: Mask  # every row of a text that occurs with more than one label

    @property
    def keep(self) -> Mask:
        return ~(self.duplicate | self.conflicting)


def normalise(text: str) -> str:
    """The form in which texts are compared."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.lower().split())


def text_keys(texts: Iterable[str]) -> Keys:
    """uint64 keys of the texts."""
    digests = (hashlib.blake2b(normalise(text).encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def find_repeats(keys: Keys, labels: Ints) -> Repeats:
    """Repeated texts of one pool, in the order of its rows."""
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    disagrees = labels != labels[first][group]
    conflicting = np.zeros(len(first), dtype=np.bool_)
    conflicting[group[disagrees]] = True
    duplicate = first[group] != np.arange(len(keys))
    return Repeats(duplicate & ~conflicting[group], conflicting[group])


def apportion(weights: Ints, total: int, low: Ints, high: Ints) -> Ints:
    """`total` in whole parts as near to proportional to `weights` as can be: largest remainder, each part within
    [low, high]. `total` is first brought within what the bounds allow."""
    total = int(np.clip(total, low.sum(), high.sum()))
    ideal = total * weights / max(int(weights.sum()), 1)
    parts = np.clip(np.floor(ideal).astype(np.int64), low, high)
    while parts.sum() < total:
        parts[np.argmax(np.where(parts < high, ideal - parts, -np.inf))] += 1
    while parts.sum() > total:
        parts[np.argmin(np.where(parts > low, ideal - parts, np.inf))] -= 1
    return parts


def wanted_sizes(sizes: SplitSizes, sharing: Sequence[Split]) -> dict[Split, int | None]:
    """Rows wanted of the splits that share a pool; None (all that are left) is for train alone."""
    given: dict[Split, int | None] = {"train": sizes.train, "validation": sizes.validation, "test": sizes.test}
    return {s: DEFAULT_SIZES[s] if given[s] is None and s != "train" else given[s] for s in CUT_ORDER if s in sharing}


def plan_sizes(
    wanted: Mapping[Split, int | None], rows: int, default_train: int = DEFAULT_SIZES["train"]
) -> dict[Split, int]:
    """Sizes of the splits that share a pool of `rows` (at least one row a split): what is wanted, or scaled down in
    proportion. A train of None takes what the others leave; in the proportion it stands to them as the default sizes
    do, up to `default_train` rows."""
    shares = [size * default_train / DEFAULT_SIZES[s] for s, size in wanted.items() if size is not None]
    scale = default_train / DEFAULT_SIZES["train"]
    train = min(default_train, max(1, int(max(shares, default=default_train) / scale)))
    asked = np.array([train if size is None else size for size in wanted.values()], dtype=np.int64)
    if asked.sum() > rows:
        asked = apportion(asked, rows, np.ones_like(asked), np.full_like(asked, rows))
    planned = dict(zip(wanted, map(int, asked), strict=True))
    if "train" in wanted and wanted["train"] is None:
        planned["train"] = rows - sum(size for split, size in planned.items() if split != "train")
    return planned


def cut(labels: Ints, wanted: Mapping[Split, int | None], *, balanced: bool, seed: int) -> dict[Split, Ints]:
    """Positions of the rows of each split cut from one pool, in shuffled order.

    Stratified: every split has the pool's class proportions and every class at least once (each class must have a
    row for every split). Balanced: every class equally often, limited by the rarest.
    """
    rng = np.random.default_rng([seed, STREAMS["train"]])
    left = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    planned = _planned(wanted, [len(rows) for rows in left], balanced=balanced)
    result: dict[Split, Ints] = {}
    for number, (split, size) in enumerate(planned.items(), start=1):
        counts = np.array([len(rows) for rows in left], dtype=np.int64)
        if balanced:
            parts = np.full(len(counts), size, dtype=np.int64)
        else:
            parts = apportion(counts, size, np.ones_like(counts), counts - (len(planned) - number))
        taken = [rows[:part] for rows, part in zip(left, parts, strict=True)]
        left = [rows[part:] for rows, part in zip(left, parts, strict=True)]
        result[split] = rng.permutation(np.concatenate(taken))
    return result


def _planned(wanted: Mapping[Split, int | None], counts: Sequence[int], *, balanced: bool) -> dict[Split, int]:
    """Rows per split; balanced: rows per class and split."""
    if not balanced:
        return plan_sizes(wanted, sum(counts))
    classes = len(counts)
    per_class = {s: None if size is None else max(1, size // classes) for s, size in wanted.items()}
    return plan_sizes(per_class, min(counts), max(1, DEFAULT_SIZES["train"] // classes))


def sample(labels: Ints, size: int | None, *, balanced: bool, seed: int, split: Split) -> Ints:
    """Positions of a sample of an official split in shuffled order; a split of at most `size` rows is taken whole."""
    rng = np.random.default_rng([seed, STREAMS[split]])
    if size is None or size >= len(labels):
        return rng.permutation(len(labels))
    groups = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    counts = np.array([len(rows) for rows in groups], dtype=np.int64)
    if balanced:
        parts = np.full_like(counts, max(1, min(size // len(counts), int(counts.min()))))
    else:
        parts = apportion(counts, size, np.ones_like(counts), counts)
    return rng.permutation(np.concatenate([rows[:part] for rows, part in zip(groups, parts, strict=True)]))


def canonical_order(keys: Keys, labels: Ints) -> Ints:
    """The order of rows that every sample starts from: by text, then label; not by place in the source."""
    return np.lexsort((labels, keys))
