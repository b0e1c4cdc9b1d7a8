"""Who may commit offsets, and what is told of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.kafka_contract.member import (
    ILLEGAL_GENERATION,
    METADATA_TOO_LARGE,
    NOBODY,
    UNKNOWN_MEMBER,
    UNKNOWN_TOPIC,
    commit,
    committed,
    newcomer,
    stable,
)
from tests.kafka_contract.side import case

if TYPE_CHECKING:
    from tests.kafka_contract.side import Side


@case
async def anybody_commits_while_the_group_is_empty(side: Side) -> None:
    """Generation -1, with whatever member id."""
    member = await newcomer(side)
    assert await member.commit(1, "first", generation=-1, member_id="") == 0  # this makes the group
    assert await member.commit(2, "second", generation=-1, member_id=NOBODY) == 0
    assert await committed(side) == (2, "second")
    assert await member.commit(3, generation=1, member_id=NOBODY) == UNKNOWN_MEMBER
    assert await committed(side) == (2, "second")


@case
async def a_group_that_nobody_knows_has_no_generation(side: Side) -> None:
    member = await newcomer(side)
    assert await member.commit(1, generation=1, member_id=NOBODY) == ILLEGAL_GENERATION
    assert await member.beat(generation=1, member_id=NOBODY) == UNKNOWN_MEMBER
    assert await committed(side) == (-1, "")


@case
async def nobody_but_members_commits_while_there_are_any(side: Side) -> None:
    member = await stable(side)
    assert await member.commit(1, generation=-1, member_id="") == UNKNOWN_MEMBER
    assert await member.commit(1, generation=-1) == ILLEGAL_GENERATION
    assert await member.commit(1, member_id="") == UNKNOWN_MEMBER
    assert await committed(side) == (-1, "")


@case
async def metadata_has_a_limit_for_each_partition(side: Side) -> None:
    member = await stable(side)
    assert await member.commit(1, "x" * 4096) == 0
    assert await member.commit(2, "x" * 4097) == METADATA_TOO_LARGE
    assert await committed(side) == (1, "x" * 4096)


@case
async def offsets_of_what_does_not_exist_are_refused(side: Side) -> None:
    member = await stable(side)
    assert await commit(member, {0: (1, ""), 9: (1, "")}, member.generation, member.id) == {0: 0, 9: UNKNOWN_TOPIC}
    assert await commit(member, {0: (1, "")}, member.generation, member.id, topic="none") == {0: UNKNOWN_TOPIC}
    assert await committed(side) == (1, "")
    assert await committed(side, 9) == (-1, "")


@case
async def nothing_committed_is_told_from_no_metadata(side: Side) -> None:
    assert await committed(side) == (-1, "")
    member = await stable(side)
    assert await committed(side) == (-1, "")
    assert await member.commit(5, "claims") == 0
    assert await committed(side) == (5, "claims")
    assert await member.commit(0) == 0
    assert await committed(side) == (0, "")


@case
async def an_offset_that_was_deleted_is_none(side: Side) -> None:
    member = await stable(side)
    await member.commit(5, "claims")
    await member.leave()
    await side.delete_offset()
    assert await committed(side) == (-1, "")


@case
async def a_group_that_was_deleted_begins_anew(side: Side) -> None:
    member = await stable(side)
    await member.commit(5, "claims")
    await member.leave()
    await side.delete_group()
    assert (await side.cluster.group(side.group)).state == "Dead"
    assert await committed(side) == (-1, "")
    assert (await stable(side)).generation == 1
