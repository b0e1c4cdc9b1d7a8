"""Joining, staying and leaving: generations, sessions, who is waited for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.kafka_contract.member import (
    ALL,
    ILLEGAL_GENERATION,
    MEMBER_ID_REQUIRED,
    NOBODY,
    NOTHING,
    REBALANCING,
    UNKNOWN_MEMBER,
    committed,
    newcomer,
    stable,
    two,
    until_told,
)
from tests.kafka_contract.side import case

if TYPE_CHECKING:
    from tests.kafka_contract.side import Side


@case
async def a_newcomer_is_given_an_id_and_then_joins(side: Side) -> None:
    member = await newcomer(side)
    answer = await member.ask_to_join()
    assert (answer.error_code, bool(answer.member_id)) == (MEMBER_ID_REQUIRED, True)
    member.id = answer.member_id
    answer = await member.join()
    assert (answer.generation_id, answer.leader_id) == (1, member.id)
    assert [(told[0], bool(told[2])) for told in answer.members] == [(member.id, True)]


@case
async def a_member_that_nobody_knows_can_neither_join_nor_do_anything(side: Side) -> None:
    stranger = await newcomer(side)
    stranger.id = NOBODY
    assert (await stranger.ask_to_join()).error_code == UNKNOWN_MEMBER  # no group yet
    member = await stable(side)
    assert (await stranger.ask_to_join()).error_code == UNKNOWN_MEMBER
    assert await member.beat(member_id=NOBODY) == UNKNOWN_MEMBER
    assert (await member.sync(member_id=NOBODY))[0] == UNKNOWN_MEMBER
    assert await member.leave(NOBODY) == UNKNOWN_MEMBER
    assert await member.commit(1, member_id=NOBODY) == UNKNOWN_MEMBER


@case
async def a_generation_that_is_over_counts_for_nothing(side: Side) -> None:
    member = await stable(side)
    for generation in (member.generation - 1, member.generation + 1):
        assert await member.beat(generation=generation) == ILLEGAL_GENERATION
        assert (await member.sync(generation=generation))[0] == ILLEGAL_GENERATION
        assert await member.commit(1, generation=generation) == ILLEGAL_GENERATION
    assert await member.beat() == 0
    assert await committed(side) == (-1, "")


@case
async def a_second_member_makes_the_first_join_again(side: Side) -> None:
    first, second = await stable(side), await newcomer(side)
    await second.get_id()
    joining = asyncio.ensure_future(second.join())
    await until_told(first, REBALANCING)
    assert not joining.done()
    answer = await first.join()
    await joining
    assert {told[0] for told in answer.members} == {first.id, second.id}
    assert (first.generation, second.generation, second.leader) == (2, 2, first.id)
    assert (await second.ask_to_join()).members in ([], ())  # asked again, a follower is told the same


@case
async def the_leader_tells_what_each_gets(side: Side) -> None:
    leader, follower = await two(side)
    assert await follower.sync() == (0, NOTHING)  # asked again
    assert await leader.sync({leader.id: NOTHING}) == (0, ALL)  # too late
    assert (leader.generation, follower.generation) == (2, 2)


@case
async def while_the_leader_has_not_told_nothing_is_committed(side: Side) -> None:
    member = await newcomer(side)
    await member.join()
    assert await member.beat() == 0
    assert await member.commit(1) == REBALANCING
    assert await member.commit(1, generation=member.generation + 1) == ILLEGAL_GENERATION
    assert await member.sync({member.id: ALL}) == (0, ALL)
    assert await member.commit(1) == 0


@case
async def while_members_are_awaited_the_old_generation_commits(side: Side) -> None:
    first, second = await stable(side), await newcomer(side)
    await second.get_id()
    joining = asyncio.ensure_future(second.join())
    await until_told(first, REBALANCING)
    assert await first.commit(3, "claims") == 0
    assert (await first.sync())[0] == REBALANCING
    assert await committed(side) == (3, "claims")
    old = first.generation
    await first.join()
    await joining
    assert await first.commit(4, generation=old) == ILLEGAL_GENERATION
    assert await committed(side) == (3, "claims")


@case
async def a_follower_that_joins_once_more_keeps_its_generation(side: Side) -> None:
    leader, follower = await two(side)
    answer = await follower.join()
    assert (answer.generation_id, list(answer.members)) == (2, [])
    assert await leader.beat() == 0


@case
async def a_leader_that_joins_once_more_makes_a_new_generation(side: Side) -> None:
    leader, follower = await two(side)
    joining = asyncio.ensure_future(leader.join())
    await until_told(follower, REBALANCING)
    await follower.join()
    await joining
    assert (leader.generation, follower.generation) == (3, 3)


@case
async def somebody_who_was_given_an_id_is_waited_for(side: Side) -> None:
    """A rebalance does not end before who has an id has joined, or its session has ended."""
    leader, follower = await two(side)
    late = await newcomer(side, session_seconds=1)
    await late.get_id()
    joining = asyncio.ensure_future(leader.join())
    await until_told(follower, REBALANCING)
    both = asyncio.ensure_future(follower.join())
    await asyncio.sleep(0.4)
    assert not both.done()
    await both
    await joining
    assert leader.generation == 3
    assert (await late.ask_to_join()).error_code == UNKNOWN_MEMBER


@case
async def the_first_of_a_group_waits_for_nobody(side: Side) -> None:
    late, first = await newcomer(side), await newcomer(side)
    await late.get_id()
    await first.join()
    assert first.generation == 1
    await first.sync({first.id: ALL})
    joining = asyncio.ensure_future(late.join())
    await until_told(first, REBALANCING)
    await first.join()
    await joining
    assert late.generation == 2


@case
async def who_was_given_an_id_may_leave(side: Side) -> None:
    """As if it had joined: the others join again."""
    leader, late = await stable(side), await newcomer(side)
    await late.get_id()
    assert await late.leave() == 0
    assert (await late.ask_to_join()).error_code == UNKNOWN_MEMBER
    assert await leader.beat() == REBALANCING
    assert (await leader.join()).generation_id == 2


@case
async def who_does_not_join_again_in_time_is_expelled(side: Side) -> None:
    first = await stable(side, patience_seconds=1)
    second = await newcomer(side, patience_seconds=1)
    await second.get_id()
    answer = await second.join()
    assert (answer.generation_id, answer.leader_id) == (2, second.id)
    assert await first.beat() == UNKNOWN_MEMBER
    assert await first.commit(1) == UNKNOWN_MEMBER


# Leaving


@case
async def who_leaves_makes_the_others_join_again(side: Side) -> None:
    leader, follower = await two(side)
    assert await leader.leave() == 0
    await until_told(follower, REBALANCING)
    answer = await follower.join()
    assert (answer.generation_id, answer.leader_id) == (3, follower.id)
    assert await leader.commit(1) == UNKNOWN_MEMBER
    assert await leader.leave() == UNKNOWN_MEMBER


@case
async def an_empty_group_counts_its_generations_on(side: Side) -> None:
    member = await stable(side)
    assert await member.commit(7, "claims") == 0
    assert await member.leave() == 0
    assert (await side.cluster.group(side.group)).state == "Empty"
    again = await stable(side)
    assert again.generation == 3  # the group's being empty was the second
    assert await committed(side) == (7, "claims")


@case
async def a_silent_member_is_gone_after_its_session(side: Side) -> None:
    silent = await stable(side, session_seconds=1)
    async with asyncio.timeout(20):
        while (await side.cluster.group(side.group)).members:
            await asyncio.sleep(0.1)
    assert await silent.beat() == UNKNOWN_MEMBER
    assert await silent.commit(1) == UNKNOWN_MEMBER


@case
async def heartbeats_and_commits_keep_a_session(side: Side) -> None:
    member = await stable(side, session_seconds=1)
    for _ in range(5):
        await asyncio.sleep(0.4)
        assert await member.beat() == 0
    for offset in range(5):
        await asyncio.sleep(0.4)
        assert await member.commit(offset) == 0


@case
async def a_group_tells_its_state_and_members(side: Side) -> None:
    assert (await side.cluster.group(side.group)).state == "Dead"
    member = await newcomer(side)
    await member.join()
    assert (await side.cluster.group(side.group)).state == "CompletingRebalance"
    await member.sync({member.id: b""})
    told = await side.cluster.group(side.group)
    assert (told.state, [each.id for each in told.members]) == ("Stable", [member.id])
    await member.leave()
    told = await side.cluster.group(side.group)
    assert (told.state, told.members) == ("Empty", ())
