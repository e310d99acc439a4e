"""Splitting: sizes, proportions, balance, repeats, determinism."""

from __future__ import annotations

import numpy as np
import pytest

from runner.contract import SplitSizes
from runner.data import splits as sp

ALL = ("train", "validation", "test")
NULLS = SplitSizes(train=None, validation=None, test=None)


def labels_of(*counts: int) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts).astype(np.int64)


@pytest.mark.parametrize(
    ("one", "other"),
    [("A  Film\n", "a film"), ("ﬁne", "FINE"), ("Ｈｅｌｌｏ", "hello"), ("é", "e\u0301"), ("ÉTÉ", "été")],
)
def test_equal_texts(one, other):
    assert sp.text_keys([one])[0] == sp.text_keys([other])[0]


def test_different_texts():
    assert len(set(sp.text_keys(["good", "good.", "goods", ""]).tolist())) == 4


def test_repeats_keep_the_first_and_drop_contradictions():
    keys = sp.text_keys(["a", "b", "a", "c", "c", "c", "d", "a"])
    repeats = sp.find_repeats(keys, np.array([0, 1, 0, 0, 0, 1, 1, 0]))
    assert np.flatnonzero(repeats.duplicate).tolist() == [2, 7]
    assert np.flatnonzero(repeats.conflicting).tolist() == [3, 4, 5]
    assert np.flatnonzero(repeats.keep).tolist() == [0, 1, 6]


@pytest.mark.parametrize("total", [4, 7, 50, 99, 100])
def test_apportion_is_near_to_proportional_and_within_bounds(total):
    weights = np.array([1, 30, 69])
    parts = sp.apportion(weights, total, np.ones_like(weights), weights)
    assert parts.sum() == total
    assert (parts >= 1).all() and (parts <= weights).all()
    assert (np.abs(parts - np.maximum(1, total * weights / 100)) <= 1.01).all()


@pytest.mark.parametrize(
    ("sizes", "sharing", "rows", "expected"),
    [
        (SplitSizes(), ALL, 20_000, {"test": 5_000, "validation": 2_000, "train": 10_000}),
        (SplitSizes(), ALL, 1_700, {"test": 500, "validation": 200, "train": 1_000}),
        (NULLS, ALL, 1_700, {"test": 500, "validation": 200, "train": 1_000}),
        (NULLS, ALL, 50_000, {"test": 5_000, "validation": 2_000, "train": 43_000}),
        (SplitSizes(train=None), ("train",), 77, {"train": 77}),
        (SplitSizes(train=None), ("train",), 77_000, {"train": 77_000}),
        (SplitSizes(train=None), ("train", "validation"), 67_000, {"validation": 2_000, "train": 65_000}),
        (SplitSizes(train=50, validation=20, test=20), ALL, 90, {"test": 20, "validation": 20, "train": 50}),
        (SplitSizes(train=50, validation=20, test=20), ALL, 45, {"test": 10, "validation": 10, "train": 25}),
    ],
)  # fmt: skip
def test_sizes(sizes, sharing, rows, expected):
    assert sp.plan_sizes(sp.wanted_sizes(sizes, sharing), rows) == expected


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("counts", [(600, 300, 100), (3, 3), (3, 4000), (5, 5, 5, 5, 5), (10_000, 9_000)])
@pytest.mark.parametrize("sizes", [SplitSizes(), SplitSizes(train=None), SplitSizes(train=50, validation=2, test=20),
                                   SplitSizes(train=None, test=100_000)])  # fmt: skip
def test_a_cut_is_a_partition_with_every_class(counts, sizes, balanced):
    labels = labels_of(*counts)
    parts = sp.cut(labels, sp.wanted_sizes(sizes, ALL), balanced=balanced, seed=1)
    rows = np.concatenate(list(parts.values()))
    assert len(np.unique(rows)) == len(rows) <= len(labels)
    for positions in parts.values():
        per_class = np.bincount(labels[positions], minlength=len(counts))
        assert (per_class >= 1).all()
        if balanced:
            assert len(set(per_class.tolist())) == 1
    if not balanced and sizes.train is None:
        assert len(rows) == len(labels)


def test_stratified_proportions():
    labels = labels_of(6_000, 3_000, 1_000)
    parts = sp.cut(labels, {"test": 1_000, "validation": 500, "train": 5_000}, balanced=False, seed=3)
    assert np.bincount(labels[parts["test"]]).tolist() == [600, 300, 100]
    assert np.bincount(labels[parts["validation"]]).tolist() == [300, 150, 50]
    assert np.bincount(labels[parts["train"]]).tolist() == [3_000, 1_500, 500]


def test_balanced_takes_all_it_can_of_the_rarest():
    parts = sp.cut(labels_of(1_000, 170), {"test": 5_000, "validation": 2_000, "train": 10_000}, balanced=True, seed=3)
    assert {split: len(rows) for split, rows in parts.items()} == {"test": 100, "validation": 40, "train": 200}


def test_a_sorted_split_is_sampled_not_headed():
    labels = labels_of(12_500, 12_500)
    for balanced in (False, True):
        rows = sp.sample(labels, 5_000, balanced=balanced, seed=42, split="test")
        assert np.bincount(labels[rows]).tolist() == [2_500, 2_500]
        assert 300 < labels[rows][:1_000].sum() < 700  # shuffled as well
        assert len(np.unique(rows)) == 5_000


def test_a_small_official_split_is_taken_whole():
    labels = labels_of(30, 10)
    for size in (None, 40, 1_000):
        assert sorted(sp.sample(labels, size, balanced=True, seed=1, split="test").tolist()) == list(range(40))


def test_the_seed_decides():
    labels = labels_of(500, 500)
    wanted = {"test": 100, "validation": 100, "train": 300}
    one, same, other = (sp.cut(labels, wanted, balanced=False, seed=seed) for seed in (1, 1, 2))
    assert all((one[split] == same[split]).all() for split in wanted)
    assert any((one[split] != other[split]).any() for split in wanted)
