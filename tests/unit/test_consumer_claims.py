"""Claims against a naive model: what may be uploaded, what a commit may say, and what is read back from one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from consumer.chunk import Cargo
from consumer.claims import (
    MAX_METADATA_BYTES,
    ChunkState,
    Claims,
    ClaimsUnreadable,
    ClosedChunk,
    Committed,
    Plan,
    decode,
)
from headrace.errors import HaltError
from headrace.objects import Range

LAYOUT, TOPIC_ID = "0123456789ab", "7b0d3f3e-6f0e-4a56-9b64-0d9c3f0a1b2c"


def committed(durable: int, *ends: int, start: int | None = None, fill_until: int = 0) -> Committed:
    return Committed(durable, durable if start is None else start, ends, fill_until, LAYOUT, TOPIC_ID)


def chunk(start: int, end: int) -> ClosedChunk:
    return ClosedChunk(Range(start, end), Cargo([]))


def accept(claims: Claims, allowance: int = 10) -> list[ClosedChunk]:
    plan = claims.plan(allowance)
    assert plan is not None
    return claims.acknowledged(plan)


# Encoding

offsets = st.integers(0, 2**62)


@st.composite
def commits(draw: st.DrawFn) -> Committed:
    start = draw(offsets)
    durable = start + draw(st.integers(0, 2**30))
    ends, last = [], durable
    for more in draw(st.lists(st.integers(1, 2**55), max_size=64)):
        last += more
        ends.append(last)
    return committed(durable, *ends, start=start, fill_until=draw(offsets))


@given(commits())
def test_what_is_committed_is_read_back(commit: Committed) -> None:
    metadata = commit.encode()
    assert metadata.isascii()
    assert len(metadata) < MAX_METADATA_BYTES
    assert decode(commit.durable, metadata) == commit


@given(commits(), offsets)
def test_a_moved_offset_means_no_claims(commit: Committed, offset: int) -> None:
    """Mirroring and reset tools may carry the metadata along; deltas would then point at other records."""
    if offset != commit.durable:
        assert decode(offset, commit.encode()) is None


@pytest.mark.parametrize(("offset", "metadata"), [(-1, ""), (-1, None), (5, ""), (5, None), (-1, "headrace/1 x")])
def test_nothing_committed_is_no_claims(offset: int, metadata: str | None) -> None:
    assert decode(offset, metadata) is None


@pytest.mark.parametrize(
    "metadata",
    [
        "x",
        "headrace/2 l t 5 5 0 -",
        "headrace/1 l t 5 5 0",
        "headrace/1 l t 5 5 0 - -",
        "headrace/1 l t five 5 0 -",
        "headrace/1 l t 5 5 0 3,,4",
        "headrace/1 l t 5 5 0 3,0",
        "headrace/1 l t 5 5 0 3,-2",
        "headrace/1  t 5 5 0 - x",
    ],
)
def test_what_cannot_be_read_halts(metadata: str) -> None:
    with pytest.raises(ClaimsUnreadable, match="commit at offset 5"):
        decode(5, metadata)


@given(st.text(min_size=1, max_size=60))
def test_any_garbage_halts(metadata: str) -> None:
    with pytest.raises(ClaimsUnreadable):
        decode(5, metadata)


@pytest.mark.parametrize("metadata", ["headrace/1 l t 5 6 0 -", "headrace/1 l t 5 1 0 2"])
def test_claims_that_contradict_their_offset_are_none(metadata: str) -> None:
    """They start behind the watermark, or end before it: nobody here has written that."""
    assert decode(5, metadata) is None


def test_where_a_commit_ends() -> None:
    assert committed(5, 7, 9).last_end == 9
    assert committed(5, start=3).last_end == 3


# The life of a chunk


def test_only_acknowledged_chunks_may_be_stored() -> None:
    claims = Claims(committed(0), known=False, most=8)
    assert (claims.durable, claims.settled, claims.claims_settled) == (-1, False, False)
    first = chunk(0, 10)
    claims.close(first)
    with pytest.raises(AssertionError, match="without a claim"):
        claims.stored(first)
    plan = claims.plan(5)
    assert plan is not None
    assert plan.committed == committed(0, 10)
    with pytest.raises(AssertionError):
        claims.plan(5)
    with pytest.raises(AssertionError, match="without a claim"):
        claims.stored(first)
    assert (claims.settled, claims.claims_settled) == (False, False)
    assert claims.acknowledged(plan) == [first]
    assert claims.plan(5) is None
    assert (claims.durable, claims.settled, claims.claims_settled) == (0, False, False)
    claims.stored(first)
    assert first.cargo is None
    assert accept(claims) == []
    assert (claims.durable, claims.unsettled, claims.settled, claims.claims_settled) == (10, 0, True, True)


def test_a_refused_claim_is_asked_again() -> None:
    claims = Claims(committed(0), known=True, most=8)
    claims.close(chunk(0, 10))
    plan = claims.plan(1)
    assert plan is not None
    claims.refused(plan)
    assert plan.chunks[0].state is ChunkState.CLOSED
    again = claims.plan(1)
    assert again is not None
    assert again.committed == plan.committed
    with pytest.raises(AssertionError):
        claims.acknowledged(plan)


def test_a_hole_in_what_is_stored_holds_the_watermark() -> None:
    claims = Claims(committed(0), known=True, most=8)
    first, second = chunk(0, 10), chunk(10, 20)
    claims.close(first)
    claims.close(second)
    accept(claims)
    claims.stored(second)
    assert claims.plan(1) is None
    claims.stored(first)
    plan = claims.plan(1)
    assert plan is not None
    assert plan.committed == committed(20)


def test_allowance_and_most_bound_what_is_claimed() -> None:
    claims = Claims(committed(0), known=True, most=3)
    for number in range(6):
        claims.close(chunk(number, number + 1))
    assert claims.full
    assert claims.plan(0) is None
    assert len(accept(claims, 2)) == 2
    assert len(accept(claims, 5)) == 1
    assert claims.plan(5) is None


def test_chunks_join() -> None:
    claims = Claims(committed(0), known=True, most=3)
    with pytest.raises(AssertionError, match="does not follow"):
        claims.close(chunk(1, 2))


def test_the_watermark_passes_an_empty_range_but_the_next_chunk_does_not() -> None:
    claims = Claims(committed(0), known=True, most=3)
    claims.skip_empty(7)
    plan = claims.plan(1)
    assert plan is not None
    assert plan.committed == committed(7, start=0)
    claims.skip_empty(9)
    claims.acknowledged(plan)
    claims.close(chunk(0, 12))
    claims.skip_empty(15)
    assert [one.offsets for one in accept(claims)] == [Range(0, 12)]
    assert claims.durable == 9


def test_a_former_owners_claims_stay_until_they_are_cut_again() -> None:
    """The first commit of a takeover must not drop them: their uploads may have landed, and this owner may die."""
    claims = Claims(committed(0, 10, 20, 30), known=True, most=1)
    assert claims.plan(5) is None
    assert claims.settled
    assert claims.claims_settled
    first = ClosedChunk(Range(0, 10), Cargo([]), ChunkState.CLAIMED)
    claims.close(first)
    assert claims.plan(5) is None
    assert not claims.claims_settled
    claims.stored(first)
    plan = claims.plan(5)
    assert plan is not None
    assert plan.committed == committed(10, 20, 30)
    claims.acknowledged(plan)
    assert claims.claims_settled
    with pytest.raises(AssertionError, match="claimed up to 20"):
        claims.close(chunk(10, 15))


def test_claims_beyond_a_smaller_limit_stay() -> None:
    claims = Claims(committed(0, 10, 20, 30), known=True, most=1)
    for start in (0, 10, 20):
        claims.close(ClosedChunk(Range(start, start + 10), Cargo([]), ChunkState.CLAIMED))
    claims.close(chunk(30, 40))
    assert claims.plan(5) is None


def test_what_is_stored_already_is_skipped_or_adopted() -> None:
    claims = Claims(committed(0, 10, fill_until=25), known=True, most=8)
    claims.skip_stored(10)
    plan = claims.plan(1)
    assert plan is not None
    assert plan.committed == committed(10, fill_until=25)
    claims.acknowledged(plan)
    claims.close(chunk(10, 20))
    claims.close(ClosedChunk(Range(20, 25), None, ChunkState.STORED))
    with pytest.raises(AssertionError):
        claims.skip_stored(30)
    (fresh,) = accept(claims)
    claims.stored(fresh)
    plan = claims.plan(1)
    assert plan is not None
    assert plan.committed == committed(25), "the repair is over: fill_until is gone"


def test_a_smaller_metadata_limit_means_fewer_claims() -> None:
    claims = Claims(committed(0), known=True, most=8)
    for number in range(3):
        claims.close(chunk(number, number + 1))
    plan = claims.plan(8)
    assert plan is not None
    claims.metadata_too_large(plan)
    assert len(accept(claims, 8)) == 2
    assert claims.plan(8) is None


def test_a_limit_that_takes_no_claim_halts() -> None:
    claims = Claims(committed(0), known=True, most=8)
    claims.close(chunk(0, 1))
    plan = claims.plan(8)
    assert plan is not None
    with pytest.raises(HaltError, match=r"offset\.metadata\.max\.bytes"):
        claims.metadata_too_large(plan)


def test_a_limit_below_what_is_claimed_waits_until_it_is_stored() -> None:
    """It is in Kafka already, and stays there as long as nothing else is committed."""
    claims = Claims(committed(0, 10), known=True, most=8)
    claimed = ClosedChunk(Range(0, 10), Cargo([]), ChunkState.CLAIMED)
    claims.close(claimed)
    claims.close(chunk(10, 20))
    plan = claims.plan(8)
    assert plan is not None
    claims.metadata_too_large(plan)
    assert claims.plan(8) is None
    claims.stored(claimed)
    plan = claims.plan(0)
    assert plan is not None
    assert plan.committed == committed(10)
    with pytest.raises(HaltError):
        claims.metadata_too_large(plan)


class ClaimsMachine(RuleBasedStateMachine):
    """A partition's claims in one owner's hands. The model: Kafka's commit, and the set of stored offsets."""

    @initialize(former=st.lists(st.integers(1, 5), max_size=4), known=st.booleans(), most=st.integers(1, 4))
    def begin(self, former: list[int], known: bool, most: int) -> None:
        ends = [100 + sum(former[: number + 1]) for number in range(len(former))]
        self.kafka = committed(100, *ends)
        self.former = list(ends)
        self.claims = Claims(self.kafka, known=known, most=most)
        self.closed: list[ClosedChunk] = []
        self.may_upload: list[ClosedChunk] = []
        self.stored: list[Range] = []
        self.plan: Plan | None = None
        self.most = most

    @rule(length=st.integers(1, 5))
    def close(self, length: int) -> None:
        start = self.claims.last_end
        if self.former:
            one = ClosedChunk(Range(start, self.former.pop(0)), Cargo([]), ChunkState.CLAIMED)
            self.may_upload.append(one)
        else:
            one = chunk(start, start + length)
        self.closed.append(one)
        self.claims.close(one)

    @rule(length=st.integers(1, 5))
    @precondition(lambda self: not self.former and self.closed)
    def adopt(self, length: int) -> None:
        """A range that S3 has already."""
        if self.claims.unsettled:
            start = self.claims.last_end
            one = ClosedChunk(Range(start, start + length), None, ChunkState.STORED)
            self.closed.append(one)
            self.stored.append(one.offsets)
            self.claims.close(one)

    @rule(allowance=st.integers(0, 3))
    @precondition(lambda self: self.plan is None)
    def ask(self, allowance: int) -> None:
        self.plan = self.claims.plan(allowance)
        if self.plan is not None:
            fresh = [one for one in self.plan.chunks if one.state is ChunkState.CLOSED]
            assert len(fresh) <= allowance
            known = [end for end in self.plan.committed.ends if end <= self.kafka.last_end]
            assert known == [end for end in self.kafka.ends if end > self.plan.committed.start], "no claim is dropped"
            assert len(self.plan.committed.ends) <= max(self.most, len(known))

    @rule(answer=st.sampled_from(["acknowledged", "acknowledged", "refused", "too large"]))
    @precondition(lambda self: self.plan is not None)
    def answer(self, answer: str) -> None:
        plan, self.plan = self.plan, None
        assert plan is not None
        if answer == "acknowledged":
            fresh = self.claims.acknowledged(plan)
            self.kafka = plan.committed
            assert all(one.offsets.end in plan.committed.ends for one in fresh)
            assert not any(one in self.may_upload for one in fresh)
            self.may_upload += fresh
        elif answer == "refused":
            self.claims.refused(plan)
        elif len(plan.committed.ends) > 1:
            self.claims.metadata_too_large(plan)
        else:
            self.claims.refused(plan)

    @rule(data=st.data())
    @precondition(lambda self: self.may_upload)
    def store(self, data: Any) -> None:
        one = data.draw(st.sampled_from(self.may_upload))
        self.may_upload.remove(one)
        self.claims.stored(one)
        self.stored.append(one.offsets)

    @rule(data=st.data())
    @precondition(lambda self: self.closed)
    def early(self, data: Any) -> None:
        one = data.draw(st.sampled_from(self.closed))
        if one.state is ChunkState.CLOSED:
            with pytest.raises(AssertionError):
                self.claims.stored(one)

    @invariant()
    def the_watermark_never_passes_what_is_stored(self) -> None:
        if hasattr(self, "kafka"):
            at = 100
            for one in sorted(self.stored):
                if one.start == at:
                    at = one.end
            assert 100 <= self.kafka.durable <= at
            assert self.claims.durable in {-1, self.kafka.durable}

    def teardown(self) -> None:
        if not hasattr(self, "kafka"):
            return
        if self.plan is not None:
            self.claims.refused(self.plan)
        while not self.claims.settled:
            for one in self.may_upload:
                self.claims.stored(one)
            self.may_upload = []
            plan = self.claims.plan(3)
            if plan is None:  # the brokers took no more metadata: what was claimed must be cut and stored first
                assert self.former, "it hangs"
                self.close(1)
                continue
            self.may_upload = self.claims.acknowledged(plan)
            self.kafka = plan.committed
        last = self.closed[-1].offsets.end if self.closed else 100
        assert self.kafka == committed(last, *self.former)


TestClaims = ClaimsMachine.TestCase
TestClaims.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
