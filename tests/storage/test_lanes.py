import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import UserError
from storage.reading.lanes import LANES, BucketOrder, LanePlan, lanes_of


def rows_of_epoch(plan: LanePlan, epoch: int) -> list[tuple[int, int]]:
    """Every (shard, row) that an epoch reads, lane by lane, from the plan's segments."""
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
    # 24 orders of the shards are possible; these seeds and epochs have six different ones.
    orders = [rows_of_epoch(LanePlan(counts, 64, seed), epoch) for seed in (0, 3) for epoch in (0, 1, 2)]
    assert len({tuple(order) for order in orders}) == 6


@given(rows=st.integers(1, 5_000), window=st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_a_window_is_shuffled_as_a_whole(rows: int, window: int) -> None:
    order = LanePlan((10_000,), 64, 3).shuffle(0, 5, window, rows)
    assert np.array_equal(np.sort(order), np.arange(rows))


def test_windows_lanes_epochs_and_seeds_are_shuffled_differently_and_no_neighbours_stay() -> None:
    keys = [(3, 0, 5, 0), (4, 0, 5, 0), (3, 1, 5, 0), (3, 0, 6, 0), (3, 0, 5, 1)]
    orders = [LanePlan((10_000,), 64, seed).shuffle(*rest, 1_000) for seed, *rest in keys]
    for number, order in enumerate(orders):
        assert order.dtype == np.int64
        # Of 999 neighbouring pairs, one or two stay neighbours by chance; about as many rows keep their position.
        assert (np.diff(order) == 1).sum() < 10
        assert (order == np.arange(1_000)).sum() < 10
        assert all((order == other).sum() < 10 for other in orders[:number])


def test_a_segment_names_the_rows_of_its_lane_in_the_order_of_the_shards() -> None:
    plan = LanePlan((100, 0, 300, 0, 7, 0, 0, 1_000, 0), 64, 5)
    order = [shard for lane in range(LANES) for shard, _ in lane_rows(plan, lane)]
    shards = list(dict.fromkeys(order))
    whole = [(shard, row) for shard in shards for row in range(plan.counts[shard])]
    length = sum(plan.counts) // LANES
    for lane in range(LANES):
        expected = whole[lane * length : lane * length + plan.steps_per_epoch]
        assert lane_rows(plan, lane) == expected
        for first, rows in ((0, 1), (3, 5), (length - 2, 2)):
            part = plan.segments(0, lane, first, rows)
            assert [(s.shard, s.first + k) for s in part for k in range(s.rows)] == expected[first : first + rows]
            assert all(segment.rows for segment in part)


def lane_rows(plan: LanePlan, lane: int) -> list[tuple[int, int]]:
    segments = plan.segments(0, lane, 0, plan.steps_per_epoch * plan.rows_per_lane)
    return [(segment.shard, segment.first + row) for segment in segments for row in range(segment.rows)]


@pytest.mark.parametrize(
    ("row_bytes", "batch", "rows", "window"),
    # A lane has 2²⁰ of the 2²⁶ bytes, in whole batches: at least one batch and at most an epoch.
    [
        (1_024, 64, 10**6, 1_024),
        (1_000, 128, 10**6, 1_048),
        (1_000, 192, 10**6, 1_047),
        (2**21, 128, 10**6, 2),
        (1, 64, 6_400, 100),
        (16, 512, 10**9, 65_536),
    ],
)
def test_a_window_is_whole_batches_of_a_megabyte(row_bytes: int, batch: int, rows: int, window: int) -> None:
    found = LanePlan((rows,), batch, 0).window_rows(row_bytes)
    assert isinstance(found, int)
    assert found == window


def test_a_plan_over_a_million_shards_needs_no_table_of_rows() -> None:
    plan = LanePlan((1_000_000,) * 100_000, 4096, 0)
    assert plan.steps_per_epoch == 10**11 // 64 // 64
    assert sum(segment.rows for segment in plan.segments(7, 63, 10**8, 5_000_000)) == 5_000_000


@pytest.mark.parametrize("batch", [0, 63, 100])
def test_a_batch_that_lanes_cannot_share_is_refused(batch: int) -> None:
    with pytest.raises(UserError, match=f"^batch_size {batch} is not a multiple of 64: use 64, 128, …$"):
        LanePlan((10_000,), batch, 0)


def test_a_split_below_one_batch_is_refused() -> None:
    line = "the split has 1,511 rows, less than one batch of 1,536: lower batch_size or use a larger corpus"
    with pytest.raises(UserError, match=f"^{line}$"):
        LanePlan((1_000, 511), 1_536, 0)
    assert LanePlan((1_000, 536), 1_536, 0).steps_per_epoch == 1


def test_more_ranks_than_lanes_are_refused() -> None:
    with pytest.raises(UserError, match=r"^65 workers are more than the 64 lanes of a batch: use at most 64$"):
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
    # The deviation of each bucket from its share is at most the number of buckets.
    for count, size in zip(before, sizes, strict=True):
        assert abs(count - step * size / epoch) <= len(sizes)
