"""The order of a run: every image as often as it should, buckets apart, and the same for every slicing."""

from __future__ import annotations

from collections import Counter
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.dataset.sampler import Presentation, micro_batches, windows, windows_per_epoch
from trainer.job import Item

BUCKETS = ((64, 64), (128, 64), (64, 128))


def item(number: int, bucket: tuple[int, int] = (64, 64), repeats: int = 1) -> Item:
    return Item(f"{number:032x}", "", ("",), bucket, bucket, repeats, "", ("",))


DATASETS = st.lists(st.tuples(st.sampled_from(BUCKETS), st.integers(1, 4)), min_size=1, max_size=14).map(
    lambda rows: [item(number, *row) for number, row in enumerate(rows)]
)


@given(items=DATASETS, seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 500), size=st.integers(1, 9))
def test_an_epoch_shows_each_image_its_repeats_and_never_mixes_buckets(
    items: list[Item], seed: int, epoch: int, size: int
) -> None:
    found = windows(items, seed=seed, epoch=epoch, size=size)
    shown = [presentation for window in found for presentation in window]
    assert Counter(p.item.id for p in shown) == {i.id: i.repeats for i in items}
    assert len({p.key for p in shown}) == len(shown)
    assert all({p.repeat for p in shown if p.item is i} == set(range(i.repeats)) for i in items)
    assert all(len({p.item.bucket for p in window}) == 1 for window in found)
    assert all(1 <= len(window) <= size for window in found)


@given(items=DATASETS, epoch=st.integers(0, 5), size=st.integers(1, 9))
def test_the_number_of_windows_is_the_formula_and_one_a_bucket_may_be_short(
    items: list[Item], epoch: int, size: int
) -> None:
    found = windows(items, seed=0, epoch=epoch, size=size)
    counts = Counter({bucket: sum(i.repeats for i in items if i.bucket == bucket) for bucket in BUCKETS})
    assert len(found) == windows_per_epoch(items, size) == sum(ceil(count / size) for count in counts.values())
    for bucket, count in counts.items():
        lengths = [len(window) for window in found if window[0].item.bucket == bucket]
        assert sorted(lengths, reverse=True) == [size] * (count // size) + [count % size] * bool(count % size)


@given(items=DATASETS, seed=st.integers(0, 99), epoch=st.integers(0, 5), size=st.integers(1, 6))
def test_the_order_does_not_depend_on_how_the_folder_lists_its_files(
    items: list[Item], seed: int, epoch: int, size: int
) -> None:
    found = windows(items, seed=seed, epoch=epoch, size=size)
    assert windows(items[::-1], seed=seed, epoch=epoch, size=size) == found


@given(items=DATASETS, batch=st.integers(1, 5), accumulation=st.integers(1, 4))
def test_micro_batches_slice_the_window_whatever_the_split(items: list[Item], batch: int, accumulation: int) -> None:
    for window in windows(items, seed=0, epoch=0, size=batch * accumulation):
        slices = micro_batches(window, batch)
        assert tuple(p for part in slices for p in part) == window
        assert all(1 <= len(part) <= batch for part in slices)
        assert len(slices) <= accumulation


@given(items=DATASETS, size=st.integers(1, 9), batch=st.integers(1, 4), world=st.integers(1, 4))
def test_ranks_share_a_window_out_with_nothing_twice_or_lost(
    items: list[Item], size: int, batch: int, world: int
) -> None:
    for window in windows(items, seed=0, epoch=0, size=size):
        shares = [[p for part in micro_batches(window, batch, rank, world) for p in part] for rank in range(world)]
        assert Counter(p.key for share in shares for p in share) == Counter(p.key for p in window)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def keys(items: list[Item], *, seed: int = 0, epoch: int = 0, size: int = 4) -> list[str]:
    return [p.key for window in windows(items, seed=seed, epoch=epoch, size=size) for p in window]


def test_five_images_and_batch_four_are_two_steps_that_show_all_five() -> None:
    items = [item(n) for n in range(5)]
    assert windows_per_epoch(items, 4) == 2
    assert sorted(map(len, windows(items, seed=0, epoch=0, size=4))) == [1, 4]
    assert sorted(keys(items)) == [f"{n:032x}#0" for n in range(5)]


def test_the_order_changes_with_the_epoch_and_the_seed_and_with_nothing_else() -> None:
    items = [item(n, BUCKETS[n % 2]) for n in range(12)]
    orders = {(seed, epoch): tuple(keys(items, seed=seed, epoch=epoch)) for seed in range(4) for epoch in range(4)}
    assert len(set(orders.values())) == 16
    assert keys(items, seed=3, epoch=2) == list(orders[3, 2])


def test_the_buckets_come_in_no_fixed_order() -> None:
    items = [item(n, BUCKETS[n % 3]) for n in range(12)]
    orders = {
        tuple(window[0].item.bucket for window in windows(items, seed=0, epoch=epoch, size=2)) for epoch in range(20)
    }
    assert len(orders) > 10
    # Nor do the short windows come last.
    last = [len(windows([item(n) for n in range(5)], seed=0, epoch=epoch, size=4)[-1]) for epoch in range(40)]
    assert 10 < sum(length == 1 for length in last) < 30


def test_who_shares_a_window_changes_with_the_epoch() -> None:
    items = [item(n) for n in range(8)]
    pairs = {frozenset(p.key for p in w) for epoch in range(10) for w in windows(items, seed=0, epoch=epoch, size=2)}
    assert len(pairs) > 15


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, ["2.0 4.0", "1.1 1.0", "3.0 3.1", "0.0"]), (1, ["0.0", "3.1 1.1", "4.0 2.0", "1.0 3.0"])],
)
def test_the_order_is_frozen(epoch: int, expected: list[str]) -> None:
    """A refactoring that changes it changes every run in silence, and breaks the resumption of old ones."""
    items = [item(n, BUCKETS[n % 2], 1 + n % 2) for n in range(5)]
    found = windows(items, seed=42, epoch=epoch, size=2)
    assert [" ".join(f"{int(p.item.id, 16)}.{p.repeat}" for p in window) for window in found] == expected


def test_a_showing_is_named_by_image_and_repeat() -> None:
    assert Presentation(item(3), 1).key == f"{3:032x}#1"
