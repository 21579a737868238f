import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import UserError
from storage.lanes import LANES, BucketOrder, LanePlan, lanes_of


def rows_of_epoch(plan: LanePlan, epoch: int) -> list[tuple[int, int]]:
    """Every (shard, row) that an epoch reads, by the plan's own segments, lane after lane."""
    rows = []
    for lane in range(LANES):
        for segment in plan.segments(epoch, lane, 0, plan.steps_per_epoch * plan.rows_per_lane):
            rows += [(segment.shard, segment.first + offset) for offset in range(segment.rows)]
    return rows


@given(
    counts=st.lists(st.integers(0, 900), min_size=1, max_size=9).filter(lambda counts: sum(counts) >= 128),
    batch=st.sampled_from([64, 128]),
    seed=st.integers(0, 9),
    epoch=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_an_epoch_reads_no_row_twice_and_leaves_less_than_a_batch_and_64(
    counts: list[int], batch: int, seed: int, epoch: int
) -> None:
    plan = LanePlan(tuple(counts), batch, seed)
    rows = rows_of_epoch(plan, epoch)
    assert len(rows) == len(set(rows)) == plan.steps_per_epoch * batch
    assert all(row < counts[shard] for shard, row in rows)
    assert sum(counts) - len(rows) < batch + LANES


@given(ranks=st.integers(1, LANES))
def test_ranks_share_the_lanes_without_gap_or_overlap(ranks: int) -> None:
    lanes = [lane for rank in range(ranks) for lane in lanes_of(rank, ranks)]
    assert lanes == list(range(LANES))


def test_epochs_differ_and_seeds_differ() -> None:
    counts = (500, 400, 300, 200)
    orders = [rows_of_epoch(LanePlan(counts, 64, seed), epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len({tuple(order) for order in orders}) >= 4


@given(rows=st.integers(1, 5_000), window=st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_a_window_is_shuffled_as_a_whole(rows: int, window: int) -> None:
    order = LanePlan((10_000,), 64, 3).shuffle(0, 5, window, rows)
    assert np.array_equal(np.sort(order), np.arange(rows))


def test_a_plan_over_a_million_shards_needs_no_table_of_rows() -> None:
    plan = LanePlan((1_000_000,) * 100_000, 4096, 0)
    assert plan.steps_per_epoch == 10**11 // 64 // 64
    assert sum(segment.rows for segment in plan.segments(7, 63, 10**8, 5_000_000)) == 5_000_000


@pytest.mark.parametrize("batch", [0, 63, 100])
def test_a_batch_that_lanes_cannot_share_is_refused(batch: int) -> None:
    with pytest.raises(UserError, match="multiple of 64"):
        LanePlan((10_000,), batch, 0)


def test_a_split_below_one_batch_is_refused() -> None:
    with pytest.raises(UserError, match="less than one batch of 512"):
        LanePlan((300,), 512, 0)


def test_more_ranks_than_lanes_are_refused() -> None:
    with pytest.raises(UserError, match="65 workers are more than the 64 lanes"):
        lanes_of(0, 65)


@given(
    sizes=st.lists(st.sampled_from([0, 1, 2, 5, 100, 3_333, 10**7]), min_size=1, max_size=6).filter(any),
    data=st.data(),
)
def test_every_step_takes_one_bucket_and_an_epoch_all_of_each(sizes: list[int], data: st.DataObject) -> None:
    order = BucketOrder(tuple(sizes))
    epoch = order.steps_per_epoch
    assert order.counts(epoch) == tuple(sizes)
    step = data.draw(st.integers(0, 3 * epoch))
    before, behind = order.counts(step), order.counts(step + 1)
    gained = [after - earlier for earlier, after in zip(before, behind, strict=True)]
    assert sorted(gained) == [0] * (len(sizes) - 1) + [1]
    assert gained[order.bucket(step)] == 1
    # Evenly: no bucket is ever further from its share than there are buckets.
    for count, size in zip(before, sizes, strict=True):
        assert abs(count - step * size / epoch) <= len(sizes)
