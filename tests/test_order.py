"""The order of rows: the native one is the specification's, a permutation, uniform, and new every epoch."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from gdfast import _core
from gdfast.backends import cpu, reference
from gdfast.losses import LogLoss
from gdfast.optimizers import Adam
from gdfast.order import keys_of, order_rows
from gdfast.plan import Examples, Part, Plan, State

Array = np.ndarray[Any, Any]
SIZES = [*range(1, 71), *sorted({2**p + e for p in range(7, 18) for e in (-1, 0, 1)}), 1_000_000]


def test_the_native_order_is_the_specification(isa: str) -> None:
    for n in SIZES:
        keys = keys_of(n, 3)
        np.testing.assert_array_equal(_core.order_rows(n, keys, 0, n), order_rows(n, keys))


def test_every_row_comes_once() -> None:
    for n in SIZES:
        for epoch in range(3):
            assert np.array_equal(np.sort(_core.order_rows(n, keys_of(5, epoch), 0, n)), np.arange(n))


def test_any_slice_is_the_slice_of_the_whole(isa: str, rng: np.random.Generator) -> None:
    for n in (1, 2, 3, 63, 64, 65, 1000, 65_537):
        keys = keys_of(1, n)
        whole = order_rows(n, keys)
        cuts = [(0, 0), (n, 0), (n - 1, 1), *(sorted(rng.integers(0, n + 1, 2)) for _ in range(20))]
        for first, last in cuts:
            count = max(0, last - first) if first != n - 1 else 1
            np.testing.assert_array_equal(_core.order_rows(n, keys, first, count), whole[first : first + count])
            np.testing.assert_array_equal(order_rows(n, keys, first, count), whole[first : first + count])


def test_sizes_beyond_2_to_the_31_and_32_are_ordered(isa: str) -> None:
    for n in (2**31 - 1, 2**31 + 1, 2**32, 2**32 + 1, 2**40 + 12345, 2**62):
        keys = keys_of(0, 1)
        for first in (0, n // 3, n - 200):
            rows = _core.order_rows(n, keys, first, 200)
            assert rows.min() >= 0
            assert rows.max() < n
            assert len(set(rows.tolist())) == 200
            if n <= 2**40 + 12345:
                np.testing.assert_array_equal(rows, order_rows(n, keys, first, 200))


def test_keys_are_a_pure_function_and_differ_by_seed_epoch_and_block() -> None:
    seen = {tuple(keys_of(s, e, b).tolist()) for s, e, b in itertools.product((0, 1, 2**40), (0, 1, 2), (0, 1))}
    assert len(seen) == 18
    assert keys_of(4, 5, 6).dtype == np.uint32
    assert keys_of(4, 5, 6).shape == (6,)
    np.testing.assert_array_equal(keys_of(4, 5, 6), keys_of(4, 5, 6))


def chi_square(counts: Array) -> float:
    """How many standard deviations the statistic of equal frequencies is above its mean."""
    expected = counts.sum() / counts.size
    degrees = counts.size - 1
    return float((((counts - expected) ** 2 / expected).sum() - degrees) / np.sqrt(2 * degrees))


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_all_orders_of_a_few_rows_occur_and_none_dominates(n: int) -> None:
    # six rounds on a rectangle this small are not quite uniform: at n = 5 an order comes up 0.4 to 1.8 times its share
    kinds = {order: i for i, order in enumerate(itertools.permutations(range(n)))}
    counts = np.zeros(len(kinds))
    for seed in range(12_000):
        counts[kinds[tuple(_core.order_rows(n, keys_of(seed, 0), 0, n).tolist())]] += 1
    share = counts * len(kinds) / counts.sum()
    assert share.min() > 0.3
    assert share.max() < 2.2


@pytest.mark.parametrize("n", [6, 7, 16, 17, 31, 64, 100])
def test_every_row_is_at_every_place_about_as_often(n: int) -> None:
    seeds = 4000
    orders = np.array([_core.order_rows(n, keys_of(seed, 1), 0, n) for seed in range(seeds)])
    for row in (0, n // 2, n - 1):
        assert chi_square(np.bincount((orders == row).argmax(axis=1), minlength=n)) < 5
    # neither are two rows neighbours more often than by chance
    apart = np.abs((orders == 0).argmax(axis=1) - (orders == 1).argmax(axis=1))
    chance = 2 * (n - np.arange(1, n)) / (n * (n - 1))
    counts = np.bincount(apart, minlength=n)[1:]
    statistic = ((counts - seeds * chance) ** 2 / (seeds * chance)).sum()
    assert (statistic - (n - 2)) / np.sqrt(2 * (n - 2)) < 5


@pytest.mark.parametrize("n", [1000, 4096, 100_003])
def test_neighbouring_epochs_and_seeds_are_unrelated(n: int) -> None:
    place = np.arange(n) / n
    orders = [_core.order_rows(n, keys_of(seed, epoch), 0, n) for seed in range(3) for epoch in range(4)]
    limit = 5 / np.sqrt(n)  # of a correlation of n independent pairs
    for a, b in itertools.combinations(orders, 2):
        assert abs(np.corrcoef(a, b)[0, 1]) < limit
        assert (a == b).sum() < 12  # about one row stays in place
    for order in orders:
        assert abs(np.corrcoef(order, place)[0, 1]) < limit
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < limit
        # rows that lie next to each other are drawn far from each other
        assert (np.abs(np.diff(order)) == 1).sum() < 14


def test_batches_hold_rows_from_everywhere() -> None:
    n, batch = 100_000, 1000
    order = _core.order_rows(n, keys_of(9, 0), 0, n)
    tenth = order.reshape(-1, batch) * 10 // n
    counts = np.array([np.bincount(row, minlength=10) for row in tenth])
    assert chi_square(counts.ravel()) < 5


# --------------------------------------------------------------------------------------------------------------- blocks

BLOCKS = [(n, block) for n in (1, 2, 7, 64, 1000, 65_537) for block in (1, 2, 3, 16, 64, 1000) if block <= n]


@pytest.mark.parametrize(("n", "block"), BLOCKS)
def test_blocks_are_ordered_as_the_specification_says(isa: str, n: int, block: int, rng: np.random.Generator) -> None:
    for epoch in range(3):
        keys = keys_of(n, epoch)
        whole = order_rows(n, keys, block=block)
        assert np.array_equal(np.sort(whole), np.arange(n))
        np.testing.assert_array_equal(_core.order_rows(n, keys, 0, n, block), whole)
        for first, last in (sorted(rng.integers(0, n + 1, 2)) for _ in range(20)):
            part = _core.order_rows(n, keys, first, last - first, block)
            np.testing.assert_array_equal(part, whole[first:last])
            np.testing.assert_array_equal(order_rows(n, keys, first, last - first, block), whole[first:last])


def test_rows_of_a_block_stay_together_and_blocks_do_not() -> None:
    n, block = 10_007, 16
    cuts, orders = set(), []
    for epoch in range(20):
        order = _core.order_rows(n, keys_of(1, epoch), 0, n, block)
        runs = order[: n // block * block].reshape(-1, block)
        assert ((np.diff(runs, axis=1) % n) == 1).all()
        assert (np.diff(runs[:, 0]) % n == block).sum() < 12  # by chance about one
        cuts.add(int(runs[0, 0]) % block)
        orders.append(order)
    assert len(cuts) > 8  # blocks are cut elsewhere in every epoch
    assert len({int(order[-1]) for order in orders}) == 20  # and so is what comes last


def test_blocks_are_at_every_place_about_as_often() -> None:
    n, block = 96, 8
    orders = np.array([_core.order_rows(n, keys_of(seed, 1), 0, n, block) for seed in range(4000)])
    for row in (0, 7, 50, 95):
        assert chi_square(np.bincount((orders == row).argmax(axis=1), minlength=n)) < 5


@pytest.mark.parametrize("backend", [reference, cpu], ids=["reference", "cpu"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_in_parts_makes_the_steps_of_the_whole_one(backend: Any, shuffle: bool) -> None:
    rng = np.random.default_rng(8)
    X = rng.standard_normal((1003, 7))
    examples = Examples(X, (X[:, 0] > 0).astype(float), None)
    plan = Plan(LogLoss(), Adam(0.01), batch_size=20, shuffle=shuffle, seed=3)
    whole, parts = (State.start(plan, np.zeros((8, 1))) for _ in range(2))
    backend.epoch(examples, plan, whole, np.full(51, 0.01))
    losses = []
    for first, count in ((0, 17), (17, 1), (18, 33)):
        part = Part(0, first, first + count == 51)
        report = backend.epoch(examples, plan, parts, np.full(count, 0.01), 1, math.inf, part)
        losses += report.losses.tolist()
        assert parts.epoch == part.last
    np.testing.assert_array_equal(parts.w, whole.w)
    np.testing.assert_array_equal(parts.slots, whole.slots)
    assert len(losses) == 51
    other = State.start(plan, np.zeros((8, 1)))
    backend.epoch(examples, plan, other, np.full(51, 0.01), 1, math.inf, Part(1))
    assert bool((other.w != whole.w).any()) == shuffle  # every block has an order of its own
