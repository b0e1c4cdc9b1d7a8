"""Which requests share a batch: whole ones, in order, within a size, when it pays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
from aiokafka.producer.message_accumulator import BatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from producer.batches import BATCH_OVERHEAD, Batch, Batcher, Budget, Request
from producer.records import record_bytes

if TYPE_CHECKING:
    import asyncio

PAYLOADS = st.lists(st.binary(max_size=300), min_size=1, max_size=60)
HEADERS = st.lists(st.tuples(st.text(max_size=20), st.none() | st.binary(max_size=200)), max_size=3)


def request(size: int, deadline: float = 1e9) -> Request:
    return Request([b"x"], 1, [], size, size, deadline, cast("asyncio.Future[None]", None))


def fill(batcher: Batcher, *sizes: int, now: float = 0.0) -> list[Request]:
    added = [request(size) for size in sizes]
    for one in added:
        batcher.add(one, now)
    return added


def take(batcher: Batcher, now: float, partitions: Any = (0, 1, 2), lanes: int = 1) -> Batch:
    batch = batcher.next(now, partitions, lanes)
    assert batch is not None
    return batch


@given(PAYLOADS, HEADERS)
def test_the_promised_size_is_never_below_what_kafka_gets(
    payloads: list[bytes], headers: list[tuple[str, bytes | None]]
) -> None:
    builder = BatchBuilder(1 << 30, 0)
    for payload in payloads:
        builder.append(timestamp=1_795_000_000_000, key=None, value=payload, headers=headers)
    promised = BATCH_OVERHEAD + record_bytes(len(payloads), sum(map(len, payloads)), headers)
    assert builder.size() <= promised <= builder.size() + len(payloads) * (21 + 9 * len(headers))


def test_the_promised_size_holds_for_very_many_and_very_long_payloads() -> None:
    for payloads in ([b""] * 300_000, [b"x" * 5_000_000]):
        builder = BatchBuilder(1 << 30, 0)
        for payload in payloads:
            builder.append(timestamp=1, key=None, value=payload, headers=[])
        assert builder.size() <= BATCH_OVERHEAD + record_bytes(len(payloads), sum(map(len, payloads)), [])


def test_a_lone_request_waits_for_company_only_as_long_as_the_linger() -> None:
    batcher = Batcher(linger=0.005, full=1000)
    (first,) = fill(batcher, 10)
    assert batcher.next(0.004, (0,), 1) is None
    assert batcher.wake_at(0.004) == 0.005
    (second,) = fill(batcher, 10, now=0.004)
    assert take(batcher, 0.005).requests == [first, second]
    assert batcher.waiting == 0


def test_while_a_batch_is_under_way_the_next_one_fills() -> None:
    batcher = Batcher(linger=0.0, full=1000)
    fill(batcher, 10)
    under_way = take(batcher, 0.0)
    later = fill(batcher, 10, 10, 10, now=0.001)
    assert batcher.next(0.1, (0, 1, 2), 1) is None
    batcher.landed(under_way)
    assert take(batcher, 0.1).requests == later


def test_as_many_small_batches_are_under_way_as_there_are_brokers() -> None:
    batcher = Batcher(linger=0.0, full=1000)
    for _ in range(3):
        fill(batcher, 10)
        batcher.next(0.0, (0, 1, 2, 3), 2)
    assert len(batcher.flights) == 2


def test_a_full_batch_does_not_wait() -> None:
    batcher = Batcher(linger=10.0, full=1000)
    fill(batcher, 10)
    assert batcher.next(0.0, (0, 1), 1) is None
    fill(batcher, 500, 500)
    first = take(batcher, 0.0, (0, 1))
    assert [one.size for one in first.requests] == [10, 500]
    assert batcher.next(0.0, (0, 1), 1) is None, "what is left is not full and lingers"


def test_a_request_longer_than_a_full_batch_goes_alone_and_whole() -> None:
    batcher = Batcher(linger=0.0, full=1000)
    small, huge, last = fill(batcher, 10, 5000, 10)
    assert [take(batcher, 0.0).requests for _ in range(2)] == [[small], [huge]]
    assert batcher.next(0.3, (0, 1, 2), 1) is not None, "the others are stuck by now"
    del last


def test_a_stuck_batch_holds_back_no_other() -> None:
    batcher = Batcher(linger=0.0, full=1000, patience=0.25)
    fill(batcher, 10)
    stuck = take(batcher, 0.0)
    fill(batcher, 10, now=0.1)
    assert batcher.next(0.2, (0, 1, 2), 1) is None
    assert batcher.wake_at(0.2) == 0.25
    assert take(batcher, 0.25).partition != stuck.partition


def test_a_partition_has_one_batch_under_way_and_each_gets_its_turn() -> None:
    batcher = Batcher(linger=0.0, full=100)
    fill(batcher, *[100] * 5)
    assert [take(batcher, 0.0, (0, 1, 4)).partition for _ in range(3)] == [0, 1, 4]
    assert batcher.next(0.0, (0, 1, 4), 1) is None
    batcher.landed(batcher.flights[1])
    assert take(batcher, 0.0, (0, 1, 4)).partition == 1


def test_no_partition_with_a_leader_means_wait() -> None:
    batcher = Batcher(linger=0.0, full=100)
    fill(batcher, 100)
    assert batcher.next(0.0, (), 1) is None
    assert batcher.waiting == 1


def test_no_more_batches_are_under_way_than_memory_should_hold() -> None:
    batcher = Batcher(linger=0.0, full=100)
    fill(batcher, *[100] * 20)
    partitions = tuple(range(20))
    while batcher.next(0.0, partitions, 1) is not None:
        pass
    assert len(batcher.flights) == Batcher.MAX_FLIGHTS


def test_a_late_landing_of_a_given_up_client_does_not_free_the_new_ones_partition() -> None:
    batcher = Batcher(linger=0.0, full=100)
    fill(batcher, 100, 100)
    old = take(batcher, 0.0, (0,))
    batcher.forget_flights()
    new = take(batcher, 0.0, (0,))
    batcher.landed(old)
    assert batcher.flights == [new]


def test_requests_whose_time_is_up_leave_the_line() -> None:
    batcher = Batcher(linger=0.0, full=100)
    early, late = request(10, deadline=1.0), request(10, deadline=2.0)
    batcher.add(early, 0.0)
    batcher.add(late, 0.0)
    assert batcher.late(0.9) == []
    assert batcher.late(1.0) == [early]
    batcher.hurry(1.5)
    assert batcher.late(1.5) == [late]
    assert batcher.wake_at(0.0) is None


STEPS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.005, 0.02, 2.0]), st.integers(0, 400), st.integers(0, 3)), max_size=40
)


@given(STEPS)
def test_whatever_happens_requests_leave_once_whole_and_in_order(steps: list[tuple[float, int, int]]) -> None:
    batcher = Batcher(linger=0.01, full=500, patience=1.0)
    added: list[Request] = []
    left: list[Request] = []
    now = 0.0
    for pause, size, landing in steps + [(2.0, 0, 0)] * 4 * len(steps):
        now += pause
        if size:
            added += fill(batcher, size, now=now)
        if landing < len(batcher.flights):
            batcher.landed(batcher.flights[landing])
        while (batch := batcher.next(now, (0, 1, 2), 1)) is not None:
            assert batch.size == BATCH_OVERHEAD + sum(one.size for one in batch.requests)
            assert batch.size <= 500 or len(batch.requests) == 1
            left += batch.requests
        partitions = [batch.partition for batch in batcher.flights]
        assert len(set(partitions)) == len(partitions)
    assert left == added


def test_the_budget_is_exact() -> None:
    budget = Budget(100, 5)
    assert budget.has_room(100, 5)
    assert not budget.has_room(101)
    budget.take(60, 3)
    assert budget.has_room(40, 2)
    assert not budget.has_room(41)
    assert not budget.has_room(0, 3)
    budget.give_back(60, 3)
    with pytest.raises(AssertionError):
        budget.give_back(1)


def test_a_batcher_shows_what_it_holds() -> None:
    batcher = Batcher(linger=1.0, full=1000)
    fill(batcher, 100, 200)
    assert repr(batcher) == "<Batcher waiting=2 (300 bytes) under_way=[]>"


# Requests for a certain partition


def pin(batcher: Batcher, partition: int, *sizes: int, now: float = 0.0) -> list[Request]:
    added = [request(size) for size in sizes]
    for one in added:
        batcher.pin(one, partition, now)
    return added


def test_a_pinned_request_goes_to_its_partition_or_waits_for_its_leader() -> None:
    batcher = Batcher(linger=0.0, full=1000)
    (pinned,) = pin(batcher, 5, 10)
    assert batcher.next(9.0, (0, 1, 2), 1) is None
    assert (batcher.waiting, batcher.pinned_bytes(5), batcher.pinned_bytes(0)) == (1, 10, 0)
    batch = take(batcher, 9.0, (0, 5))
    assert (batch.partition, batch.requests, batch.pinned) == (5, [pinned], True)


def test_pinned_batches_leave_in_waves_for_the_client_asks_for_all_of_them_at_once() -> None:
    batcher = Batcher(linger=0.0, full=1000)
    for partition in range(20):
        pin(batcher, partition, 10)
    wave = [take(batcher, 1.0, range(20)) for _ in range(20)]
    assert [batch.partition for batch in wave] == list(range(20))
    pin(batcher, 3, 10, now=1.0)
    assert batcher.next(1.0, range(20), 1) is None, "its partition has one under way"
    batcher.landed(wave[3])
    assert batcher.next(1.1, range(20), 1) is None, "the wave is under way"
    for batch in wave:
        batcher.landed(batch)
    assert take(batcher, 1.1, range(20)).partition == 3


def test_pinned_requests_linger_too_unless_they_fill_a_batch() -> None:
    batcher = Batcher(linger=1.0, full=1000)
    pin(batcher, 0, 10)
    assert batcher.next(0.5, (0, 1), 1) is None
    assert batcher.wake_at(0.5) == 1.0
    full = pin(batcher, 1, 500, 600, now=0.5)
    assert take(batcher, 0.5, (0, 1)).requests == full[:1]
    assert batcher.next(0.5, (0, 1), 1) is None
    assert take(batcher, 1.0, (0, 1)).partition == 0, "the other one is stuck by now"
    assert batcher.wake_at(1.0) == 1.5


@pytest.mark.parametrize("pinned_first", [False, True])
def test_where_both_want_one_partition_the_older_goes_first(*, pinned_first: bool) -> None:
    batcher = Batcher(linger=0.0, full=1000)
    order = []
    for now in (0.0, 0.001):
        if (now == 0.0) == pinned_first:
            pin(batcher, 0, 10, now=now)
        else:
            fill(batcher, 10, now=now)
    for now in (0.002, 0.003):
        batch = take(batcher, now, (0,))
        order.append(batch.pinned)
        batcher.landed(batch)
    assert order == [pinned_first, not pinned_first]


def test_a_pinned_wave_and_what_goes_anywhere_leave_together() -> None:
    batcher = Batcher(linger=0.0, full=1000)
    pin(batcher, 0, 10)
    fill(batcher, 10, now=0.001)
    assert [take(batcher, 0.002, (0, 1)).partition for _ in range(2)] == [0, 1]
    pin(batcher, 2, 10, now=0.002)
    assert take(batcher, 0.002, (0, 1, 2)).partition == 2


def test_pinned_requests_whose_time_is_up_leave_and_hurry() -> None:
    batcher = Batcher(linger=1.0, full=1000)
    early, late = request(10, deadline=1.0), request(10, deadline=2.0)
    batcher.pin(early, 0, 0.0)
    batcher.pin(late, 1, 0.0)
    assert batcher.late(1.0) == [early]
    batcher.hurry(1.5)
    assert batcher.late(1.5) == [late]
    assert batcher.wake_at(0.0) is None
    assert repr(batcher) == "<Batcher waiting=0 (0 bytes) under_way=[]>"


def test_what_does_not_fit_the_batch_stays_behind_the_other_lines() -> None:
    batcher = Batcher(linger=0.0, full=100)
    first = pin(batcher, 0, 30, 30)
    (other,) = pin(batcher, 1, 30)
    assert take(batcher, 0.0).requests == first[:1]
    assert take(batcher, 0.0).requests == [other]
    assert batcher.next(0.0, (0, 1, 2), 1) is None
    batcher.landed(batcher.flights[0])
    batcher.landed(batcher.flights[0])
    assert take(batcher, 0.1).requests == first[1:]


PINNED_STEPS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.005, 0.02, 2.0]), st.integers(0, 400), st.none() | st.integers(0, 2), st.integers(0, 4)
    ),
    max_size=40,
)


@given(PINNED_STEPS)
def test_whatever_happens_each_line_leaves_once_whole_and_in_order(
    steps: list[tuple[float, int, int | None, int]],
) -> None:
    batcher = Batcher(linger=0.01, full=500, patience=1.0)
    added: dict[int | None, list[Request]] = {None: [], 0: [], 1: [], 2: []}
    left: dict[int | None, list[Request]] = {None: [], 0: [], 1: [], 2: []}
    now = 0.0
    for pause, size, partition, landing in [*steps, *[(2.0, 0, None, 0)] * 8 * len(steps)]:
        now += pause
        if size and partition is None:
            added[None] += fill(batcher, size, now=now)
        elif size and partition is not None:
            added[partition] += pin(batcher, partition, size, now=now)
        if landing < len(batcher.flights):
            batcher.landed(batcher.flights[landing])
        while (batch := batcher.next(now, (0, 1, 2), 1)) is not None:
            assert batch.size == BATCH_OVERHEAD + sum(one.size for one in batch.requests)
            assert batch.size <= 500 or len(batch.requests) == 1
            left[batch.partition if batch.pinned else None] += batch.requests
        partitions = [batch.partition for batch in batcher.flights]
        assert len(set(partitions)) == len(partitions)
        wake_at = batcher.wake_at(now)
        assert wake_at is None or wake_at > now
    assert left == added
