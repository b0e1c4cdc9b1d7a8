"""Harm, at the plan's moments: to processes, to S3, and whatever the operator is up to."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from tests.simulation.plan import MOMENTS, REBALANCE_MOMENTS
from tests.simulation.world import Trap

if TYPE_CHECKING:
    from tests.simulation.fleet import Fleet
    from tests.simulation.operations import Operations
    from tests.simulation.plan import Plan
    from tests.simulation.world import World

HOUR_MS = 3_600_000


class Adversary:
    """Acts until the plan's harm is done."""

    def __init__(self, world: World, plan: Plan, fleet: Fleet, operations: Operations) -> None:
        self._world = world
        self._plan = plan
        self._fleet = fleet
        self._operations = operations

    async def run(self) -> None:
        dice, plan = self._world.dice, self._plan
        moments = sorted(dice.uniform(0.1, plan.seconds) for _ in range(plan.actions))
        names, weights = list(plan.harm), list(plan.harm.values())
        for moment in moments:
            if moment > self._world.now:
                await asyncio.sleep(moment - self._world.now)
            await self._act(dice.choices(names, weights)[0])
        if plan.finally_ is not None:
            await self._act(plan.finally_)

    async def _act(self, action: str) -> None:
        world, dice, fleet = self._world, self._world.dice, self._fleet
        running = fleet.running()
        match action:
            case "kill" | "pause" | "terminate" | "cut off" | "cancel":
                if running:
                    fleet.harm(action, dice.choice(running))
            case "trap kill" | "trap pause" | "trap cut off":
                world.traps.append(Trap(dice.choice(MOMENTS), dice.randrange(6), action.partition(" ")[2]))
            case "trap terminate" | "trap cancel":
                moment = dice.choice(MOMENTS + 2 * REBALANCE_MOMENTS)
                world.traps.append(Trap(moment, dice.randrange(3), action.partition(" ")[2]))
            case "rejoin":  # as when the client hears of other partitions
                self._rejoin()
            case "join":
                fleet.again()
            case "storm":
                await self._storm()
            case "s3 forbidden" | "s3 down":
                world.say("s3", f"is {action[3:]}")
                name = action.replace(" ", "_")
                setattr(world.weather, name, True)
                world.later(dice.uniform(0.5, 8), partial(setattr, world.weather, name, False))
            case "clock":  # for all: an hour forth or back, until it is set right again
                world.wall_jump_ms += dice.choice((-HOUR_MS, HOUR_MS))
                world.say("clock", f"jumps to {world.wall_jump_ms // 1000:+d} s")
            case "sleep through exodus" | "be cut off at exodus":
                await self._absent_at_exodus("pause" if action.startswith("sleep") else "cut off")
            case _:
                await self._operations.do(action)

    def _rejoin(self) -> None:
        running = self._fleet.running()
        if running and (client := self._world.dice.choice(running).coordinator) is not None:
            client.request_rejoin()

    async def _storm(self) -> None:
        dice, fleet = self._world.dice, self._fleet
        for _ in range(dice.randrange(2, 5)):
            fleet.again()
            await asyncio.sleep(dice.uniform(0.1, 1.5))
            if still := fleet.running():
                fleet.harm(dice.choice(("terminate", "kill")), dice.choice(still))

    async def _absent_at_exodus(self, harm: str) -> None:
        self._world.traps.append(Trap(self._world.dice.choice(("put sent", "put landed")), 0, harm))
        for _ in range(30):
            if any((process.stopped or process.cut) and not process.dead for process in self._fleet.archives):
                await self._operations.do("exodus")
                return
            await asyncio.sleep(0.1)
