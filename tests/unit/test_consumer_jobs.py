"""Which chunk is tried next: whatever happens, nothing is lost or tried twice at once, and something is always left."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.budget import SHARE, Budget
from consumer.jobs import FAILURES_TO_FAIL, Job, Jobs
from consumer.packer import Body

LANES = 4


class World:
    """Jobs, and a naive account of them. Lanes and chunks are names here."""

    def __init__(self) -> None:
        self.jobs = Jobs(self.wake)
        self.woken = 0
        self.lanes = [f"lane {number}" for number in range(LANES)]
        for lane in self.lanes:
            self.jobs.add_lane(lane)  # type: ignore[arg-type]
        self.failures: Counter[str] = Counter()
        self.waiting: dict[Any, float] = {}
        """Chunk to the time it may be tried again."""
        self.under_way: list[Job] = []
        self.number = 0
        self.now = 0.0

    def wake(self) -> None:
        self.woken += 1

    def failing(self, lane: str) -> bool:
        return self.failures[lane] >= FAILURES_TO_FAIL

    def busy(self, lane: str) -> int:
        return sum(job.lane == lane for job in self.under_way)  # type: ignore[comparison-overlap]

    def put(self, lane: str, puts: int = 1) -> None:
        self.number += 1
        chunk: Any = (lane, self.number, puts)
        self.jobs.put_nowait((lane, chunk), puts)  # type: ignore[arg-type]
        self.waiting[chunk] = 0.0

    def others_come_first(self, chunk: Any, slots: int) -> bool:
        """Older ones of its lane are under way, and can use all slots."""
        before: list[Any] = [job.chunk for job in self.under_way if job.lane == chunk[0]]
        older = [other for other in before if other[1] < chunk[1]]
        return bool(older) and len(before) > 1 and sum(puts for _, _, puts in before) >= 2 * slots

    def take(self, slots: int) -> None:
        job = self.jobs.next(self.now, slots)
        ready = {chunk for chunk, at in self.waiting.items() if at <= self.now}
        free = slots - len(self.under_way)
        if job is None:
            for lane, *_ in ready:
                oldest = min((chunk for chunk in ready if chunk[0] == lane), key=lambda chunk: chunk[1])
                if self.others_come_first(oldest, slots):
                    continue
                if self.failing(lane):
                    assert free <= 0 or self.busy(lane) or self.trouble() >= max(1, slots // 2)
                else:
                    assert self.busy(lane) >= free, "who has less than is free gets the next"
            return
        chunk: Any = job.chunk
        lane, number, _ = chunk
        assert number == min(other for of, other, _ in ready if of == lane), "the oldest is first"
        assert not self.others_come_first(chunk, slots)
        if self.failing(lane):
            assert self.busy(lane) == 0
            assert self.trouble() < max(1, slots // 2)
        else:
            assert self.busy(lane) < free
        del self.waiting[chunk]
        self.under_way.append(job)

    def trouble(self) -> int:
        return sum(self.busy(lane) for lane in self.lanes if self.failing(lane))

    def end(self, which: int, how: str, pause: float) -> None:
        job = self.under_way.pop(which % len(self.under_way))
        lane: Any = job.lane
        if how == "fail":
            assert self.jobs.again(job, self.now + pause)
            self.failures[lane] += 1
            self.waiting[job.chunk] = self.now + pause
            return
        if job.bodies is None:
            self.jobs.packed(job, [Body("k", b"abc", {}, "", 1)])
            assert self.jobs.body_bytes(lane) >= 3
        assert job.bodies
        assert self.jobs.stored(job, job.bodies[0]) == 3
        if self.failing(lane):
            for chunk in self.waiting:
                if chunk[0] == lane:
                    self.waiting[chunk] = 0.0
        self.failures[lane] = 0
        self.jobs.done(job)


STEPS = st.one_of(
    st.tuples(st.just("put"), st.integers(0, LANES - 1), st.sampled_from([1, 1, 1, 3, 8])),
    st.tuples(st.just("take"), st.integers(1, 6)),
    st.tuples(st.just("end"), st.integers(0, 9), st.sampled_from(["fail", "fail", "store"]), st.floats(0, 3)),
    st.tuples(st.just("wait"), st.floats(0, 2)),
)


@given(st.lists(STEPS, max_size=80))
@settings(deadline=None)
def test_against_a_naive_account(steps: list[tuple[Any, ...]]) -> None:
    world = World()
    for step in steps:
        match step:
            case ("put", lane, puts):
                woken = world.woken
                world.put(world.lanes[lane], puts)
                assert world.woken > woken
            case ("take", slots):
                world.take(slots)
            case ("end", which, how, pause):
                if world.under_way:
                    world.end(which, how, pause)
            case ("wait", seconds):
                world.now += seconds
        assert world.jobs.qsize() == len(world.waiting)
        later = [at for at in world.waiting.values() if at > world.now]
        assert world.jobs.wake_at(world.now) == min(later, default=None)
        assert set(map(str, world.jobs.failing)) == {lane for lane in world.lanes if world.failing(lane)}
    for lane in world.lanes:
        dropped = {job.chunk for job in world.jobs.drop_lane(lane)}  # type: ignore[arg-type]
        assert dropped == {chunk for chunk in world.waiting if chunk[0] == lane}
    assert world.jobs.qsize() == 0
    for job in world.under_way:
        assert not world.jobs.again(job, 0.0), "its lane is gone"
        world.jobs.done(job)
    assert world.jobs.next(world.now, 100) is None
    assert "waiting=0 under_way=0 lanes=0" in repr(world.jobs)


def test_the_oldest_is_first_also_after_a_pause() -> None:
    """Whatever younger ones wait: nothing can be committed before it is stored."""
    world, lane = World(), "lane 0"
    for _ in range(4):
        world.put(lane, 100)
    world.take(16)
    world.take(16)
    world.end(0, "fail", 0.5)
    world.take(16)
    assert [job.chunk[1] for job in world.under_way] == [2, 3], "meanwhile others may"  # type: ignore[index]
    world.take(16)
    assert len(world.under_way) == 2
    world.now = 1.0
    world.take(16)
    assert [job.chunk[1] for job in world.under_way] == [2, 3, 1], "and it finds a worker"  # type: ignore[index]


def test_of_chunks_with_many_objects_few_are_under_way() -> None:
    """The others would be half-way when a successor has to repeat them, and would use no slot more."""
    for puts, many in ((1, 16), (4, 8), (10, 4), (31, 2), (1000, 2)):
        jobs, lane = Jobs(lambda: None), "lane"
        jobs.add_lane(lane)  # type: ignore[arg-type]
        for number in range(20):
            jobs.put_nowait((lane, number), puts)  # type: ignore[arg-type]
        assert sum(jobs.next(0.0, 16) is not None for _ in range(20)) == many, puts


def test_lanes_take_turns() -> None:
    world = World()
    for lane in world.lanes[:3]:
        for _ in range(3):
            world.put(lane)
    order = []
    for _ in range(9):
        world.take(100)
        order.append(world.under_way[-1].lane)
    assert [str(lane) for lane in order] == world.lanes[:3] * 3


def test_a_lane_alone_has_all_slots_and_places() -> None:
    jobs = Jobs(lambda: None)
    lane: Any = "lane"
    jobs.add_lane(lane)
    assert jobs.places_for(lane, 7) == 7
    for number in range(5):
        jobs.put_nowait((lane, number))  # type: ignore[arg-type]
    taken = [jobs.next(0.0, 4) for _ in range(5)]
    assert [job is not None for job in taken] == [True] * 4 + [False]
    other: Any = "other"
    jobs.add_lane(other)
    jobs.put_nowait(("gone", 9))  # type: ignore[arg-type]
    assert jobs.qsize() == 1
    assert jobs.places_for(other, 7) == 4
    assert jobs.places_for(lane, 0) == 0


@given(st.integers(1, 6), st.integers(100, 10_000))
def test_some_of_the_budget_stays_free_however_many_are_stuck(stuck: int, high: int) -> None:
    """Each takes as long as it may; a newcomer finds something."""
    budget = Budget(high)
    for _ in range(stuck):
        own = 0
        while not budget.beyond_share(own + 1, resting=False):
            budget.add(1)
            own += 1
    assert budget.free >= high // (SHARE + 1) ** stuck - 1


@given(st.integers(8, 1000), st.lists(st.tuples(st.integers(0, 300), st.booleans()), max_size=30))
def test_shortness_ends_whatever_is_stuck(high: int, steps: list[tuple[int, bool]]) -> None:
    """Once nothing but what is stuck is held, it is over, unless that is all there is."""
    budget = Budget(high)
    stuck = 0
    for size, sticks in steps:
        budget.add(size)
        if sticks:
            stuck += size
            budget.set_stuck(stuck)
        if budget.held >= high:
            assert budget.short
        assert budget.excess == max(0, budget.held - budget.low)
        assert budget.crowded == (budget.held > high / 2)
    budget.add(stuck - budget.held)
    assert budget.short == (stuck >= high)


def test_a_lane_that_is_gone_while_its_chunk_is_under_way() -> None:
    """Its attempt ends as any does, and nothing of it is left."""
    jobs = Jobs(lambda: None)
    lane: Any = "gone"
    jobs.add_lane(lane)
    jobs.put_nowait((lane, "chunk"))  # type: ignore[arg-type]
    job = jobs.next(0.0, 4)
    assert job is not None
    body = Body("key", b"12345", {}, "text/plain", 1)
    jobs.packed(job, [body])
    assert list(jobs.drop_lane(lane)) == []
    assert jobs.drop_lane(lane) == ()
    assert jobs.stored(job, body) == 5
    jobs.done(job)
    assert repr(jobs) == "<Jobs waiting=0 under_way=0 lanes=0>"
    assert jobs.next(0.0, 4) is None
