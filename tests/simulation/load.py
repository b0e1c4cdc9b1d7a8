"""What is produced: bursts of records, markers and transactions."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from headrace.record import StoredRecord

if TYPE_CHECKING:
    from tests.simulation.broker import Broker
    from tests.simulation.logs import Log
    from tests.simulation.oracle import Oracle
    from tests.simulation.plan import Plan
    from tests.simulation.world import World


class Load:
    """The producers of one run, all of them."""

    def __init__(self, world: World, plan: Plan, broker: Broker, oracle: Oracle) -> None:
        self._world = world
        self._plan = plan
        self._broker = broker
        self._oracle = oracle

    async def run(self) -> None:
        """Bursts to all partitions, for most of the plan's time."""
        dice, plan = self._world.dice, self._plan
        left = plan.records
        while left > 0:
            burst = min(left, dice.choice((1, 3, 10, 30)))
            left -= burst
            await self.burst(dice.randrange(plan.partitions), burst)
            await asyncio.sleep(dice.expovariate(plan.records / plan.seconds / burst / 1.3))

    async def burst(self, partition: int, count: int) -> None:
        """So many records to one partition, unless nobody can produce to it."""
        if self._broker.missing or self._broker.logs[partition].cut_short:
            return
        log, dice = self._broker.logs[partition], self._world.dice
        if self._world.chance(self._plan.transactions):
            self._transaction(log, count)
        else:
            for _ in range(count):
                self._append(log)
                if dice.random() < 0.03:
                    for _ in range(dice.randrange(1, 4)):
                        log.mark()
        self._broker.grown()

    def _transaction(self, log: Log, count: int) -> None:
        aborted = self._world.dice.random() < 0.3
        first = log.end
        log.open.append(first)
        for _ in range(count):
            self._append(log, readable=not aborted)
        self._world.later(self._world.dice.uniform(0.05, 3), self._end_transaction, log, first)

    def _end_transaction(self, log: Log, first: int) -> None:
        if first in log.open:
            log.open.remove(first)
            log.mark()
            self._broker.grown()

    def _append(self, log: Log, *, readable: bool = True) -> None:
        dice = self._world.dice
        offset = log.end
        timestamp = self._world.wall_ms()
        odd = dice.random()
        if odd < 0.15:
            timestamp += 3_600_000
        elif odd < 0.17:
            timestamp = -1
        more = b'"again":true,' if self._broker.incarnation > 1 else b""
        value = b'{%s"n":%d,"p":"%s"}' % (more, offset, b"x" * int(odd * 40))
        record = StoredRecord(offset, timestamp, None, value)
        log.append(self._varied(record) if self._plan.mixed else record, readable=readable)
        if readable:
            self._oracle.appended(log, offset)

    def _varied(self, record: StoredRecord) -> StoredRecord:
        """With a key, fields, and now and then no JSON. Of dice of its own: the schedule is what it is without."""
        dice = random.Random(f"{self._world.seed} {record.offset}")
        key = dice.choice((None, b"a", b"b/..", b"\xff"))
        assert record.value is not None
        at, country = self._world.wall_ms() // 1000 + dice.choice((0, 0, 0, 86_400)), dice.choice((b"de", b"fr", b""))
        fields = b'"at":%d,"c":"%b",' % (at, country)
        value = dice.choice((record.value[:1] + fields + record.value[1:],) * 9 + (None, b"", b"two\nlines", b"\xff"))
        return record._replace(key=key, value=value, headers=(("h", b"1"),) if dice.random() < 0.1 else ())
