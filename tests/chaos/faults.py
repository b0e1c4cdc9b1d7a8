"""Harm: does what a plan's steps say. Whatever is stopped, started or healed again is seen to by the time it ends."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from aiokafka.admin import RecordsToDelete
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import DeleteGroupsRequest

from headrace.errors import HeadraceError
from headrace.kafka import EARLIEST
from tests.chaos.plan import Kind
from tests.s3_proxy import Fault, weather

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable

    from headrace.kafka import KafkaCluster
    from headrace.local.server import Server
    from tests.chaos.cast import Cast, Member
    from tests.chaos.oracle import Watch
    from tests.chaos.plan import Setting, Step
    from tests.s3_proxy import Choose
    from tests.services import OwnStack
    from tests.trial import Trial

MOST_CONSUMERS: Final = 4
SPELLS: Final = {
    Kind.S3_OUTAGE: Fault.RESET,
    Kind.S3_UNAVAILABLE: Fault.UNAVAILABLE,
    Kind.S3_FORBIDDEN: Fault.FORBIDDEN,
}


class Weather:
    """What the proxy does: foul all the time; in a spell, the same to every request."""

    def __init__(self, seed: int, setting: Setting) -> None:
        self._puts: Choose = weather(seed, delay=setting.reply_seconds, share=setting.lost_share)
        self._dice = random.Random(f"weather {seed}")
        self._reply_seconds = setting.reply_seconds
        self.spell: Fault | None = None
        self.clear = False

    def __call__(self, method: str, path: str) -> tuple[Fault, float]:
        if self.spell is not None:
            return self.spell, 0.0
        if self.clear:
            return Fault.PASS, 0.0
        fault, delay = self._puts(method, path)
        if fault is Fault.PASS and method == "PUT" and self._dice.random() < 0.3:
            return Fault.SLOW, delay
        if method == "PUT" and "_headrace" not in path:
            return fault, delay
        # LIST, HEAD, GET and markers: fewer, and a takeover needs several of them.
        fault = self._dice.choices((Fault.PASS, Fault.UNAVAILABLE, Fault.RESET), (94, 3, 3))[0]
        return fault, self._dice.uniform(0, self._reply_seconds / 6)


class Havoc:
    """Carries out steps. Short harm is done when `do` returns, long harm when the context is left."""

    def __init__(
        self,
        *,
        trial: Trial,
        stack: OwnStack,
        consumers: Cast,
        producers: Cast,
        new_consumer: Callable[[], Member],
        weather: Weather,
        watch: Watch,
        settle_seconds: float,
        say: Callable[[str], None],
    ) -> None:
        self._trial = trial
        self._stack = stack
        self._consumers = consumers
        self._producers = producers
        self._new_consumer = new_consumer
        self._weather = weather
        self._watch = watch
        self._settle_seconds = settle_seconds
        self._say = say
        self._began = time.monotonic()
        self._broker = asyncio.Lock()
        self._s3 = asyncio.Lock()
        self._sky = asyncio.Lock()
        self.done: Counter[Kind] = Counter()

    async def run(self, steps: Iterable[Step], until: Callable[[], bool]) -> None:
        """Step after step as long as `until` is false; returns when all is healed."""
        async with asyncio.TaskGroup() as lasting:
            for step in steps:
                if until():
                    break
                if step.settle:
                    await self._settle()
                await asyncio.sleep(step.calm)
                self._say(f"{time.monotonic() - self._began:6.1f} s  {step.kind.value}")
                await self._do(step, lasting.create_task)
                self.done[step.kind] += 1

    async def _settle(self) -> None:
        before = self._watch.stored
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settle_seconds):
                while self._watch.stored == before:
                    await asyncio.sleep(0.1)

    async def _do(self, step: Step, later: Callable[[Coroutine[Any, Any, None]], Any]) -> None:
        match step.kind:
            case Kind.KILL_CONSUMER:
                await self._replace(await self._consumers.take(step.member), step)
            case Kind.KILL_PRODUCER:
                await self._replace(await self._producers.take(step.member), step)
            case Kind.END_CONSUMER:
                await self._end(await self._consumers.take(step.member))
            case Kind.END_PRODUCER:
                await self._end(await self._producers.take(step.member))
            case Kind.PAUSE_CONSUMER:
                later(self._pause(await self._consumers.take(step.member), step.seconds))
            case Kind.PAUSE_PRODUCER:
                later(self._pause(await self._producers.take(step.member), step.seconds))
            case Kind.KILL_ALL_CONSUMERS:
                await self._kill_all()
            case Kind.JOIN_OR_LEAVE:
                await self._join_or_leave(step)
            case Kind.KILL_BROKER:
                later(self._kill_server(self._stack.kafka, self._broker, step.seconds))
            case Kind.KILL_S3:
                later(self._kill_server(self._stack.s3, self._s3, step.seconds))
            case Kind.PAUSE_BROKER:
                later(self._pause_broker(step.seconds))
            case Kind.S3_OUTAGE | Kind.S3_UNAVAILABLE | Kind.S3_FORBIDDEN:
                later(self._spell(SPELLS[step.kind], step.seconds))
            case Kind.DELETE_RECORDS:
                await self._delete_records(step)
            case Kind.RESET_TO_MIDDLE | Kind.RESET_TO_ZERO | Kind.RESET_TO_END | Kind.DELETE_GROUP:
                await self._reset(step)

    # Processes. Each method is given a member whose lock is held, and gives it back.

    async def _replace(self, member: Member, step: Step) -> None:
        try:
            await member.kill()
            await asyncio.sleep(step.place)
            member.start()
        finally:
            member.lock.release()

    async def _end(self, member: Member) -> None:
        try:
            await member.end()
            member.start()
        finally:
            member.lock.release()

    async def _pause(self, member: Member, seconds: float) -> None:
        try:
            member.pause()
            await asyncio.sleep(seconds)
        finally:
            member.resume()
            member.lock.release()

    async def _kill_all(self) -> None:
        async with self._all_consumers() as members:
            await asyncio.gather(*(member.kill() for member in members))
            for member in members:
                member.start()

    async def _join_or_leave(self, step: Step) -> None:
        running = self._consumers.running()
        if len(running) > 1 and (step.hard or len(running) >= MOST_CONSUMERS):
            member = await self._consumers.take(step.member)
            try:
                await member.end()
            finally:
                member.lock.release()
            return
        away = [member for member in self._consumers.members if not member.running and not member.lock.locked()]
        if not away:
            away = [self._new_consumer()]
            self._consumers.members += away
        away[0].start()

    @contextlib.asynccontextmanager
    async def _all_consumers(self) -> AsyncIterator[list[Member]]:
        """All that run, once nothing else is done to any of them."""
        async with contextlib.AsyncExitStack() as locks:
            for member in self._consumers.members:
                await locks.enter_async_context(member.lock)
            yield self._consumers.running()

    # Servers

    async def _kill_server(self, server: Server, lock: asyncio.Lock, seconds: float) -> None:
        async with lock:
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(seconds)
            await asyncio.to_thread(server.restart)

    async def _pause_broker(self, seconds: float) -> None:
        async with self._broker:
            self._stack.kafka.child.pause()
            try:
                await asyncio.sleep(seconds)
            finally:
                self._stack.kafka.child.resume()

    async def _spell(self, fault: Fault, seconds: float) -> None:
        async with self._sky:
            self._weather.spell = fault
            try:
                await asyncio.sleep(seconds)
            finally:
                self._weather.spell = None

    # What operators do. The broker stays up meanwhile.

    async def _delete_records(self, step: Step) -> None:
        tp = self._trial.tps[step.member % self._trial.partitions]
        async with self._broker:

            async def delete() -> None:
                async with self._trial.cluster() as cluster, self._trial.admin() as admin:
                    start = (await cluster.log_offsets([tp], EARLIEST))[tp]
                    before = start + int(step.place * (self._watch.frontier[tp.partition] - start))
                    await admin.delete_records({tp: RecordsToDelete(before)})

            await _patiently(delete)

    async def _reset(self, step: Step) -> None:
        while not all(self._watch.frontier.values()):
            await asyncio.sleep(0.2)  # where nothing is stored, a reset says where the archive is to begin
        async with self._all_consumers() as members, self._broker:
            await asyncio.gather(*(member.kill() if step.hard else member.end() for member in members))
            await _patiently(self._wait_until_empty)
            await _patiently(lambda: self._move_group(step))
            for member in members:
                member.start()

    async def _wait_until_empty(self) -> None:
        async with self._trial.cluster() as cluster:
            while (await cluster.group(self._trial.group)).members:
                await asyncio.sleep(0.1)

    async def _move_group(self, step: Step) -> None:
        async with self._trial.cluster() as cluster:
            match step.kind:
                case Kind.RESET_TO_MIDDLE:
                    shares = {tp: (step.place * (tp.partition + 1)) % 1 for tp in self._trial.tps}
                    places = {tp: int(share * self._watch.frontier[tp.partition]) for tp, share in shares.items()}
                    await cluster.set_offsets(self._trial.group, places)
                case Kind.RESET_TO_ZERO:
                    await cluster.set_offsets(self._trial.group, dict.fromkeys(self._trial.tps, 0))
                case Kind.RESET_TO_END:
                    ends = await self._trial.log_ends()
                    await cluster.set_offsets(self._trial.group, ends)
                case _:
                    await _delete_group(cluster, self._trial.group)


async def _delete_group(cluster: KafkaCluster, group: str) -> None:
    """Forget all that a group has committed. There is no public call for it."""
    gone = {0, 69}  # done, or there is no such group
    await cluster._ask_coordinator(
        group,
        DeleteGroupsRequest([group]),
        lambda answer: next((code for _, code in answer.results if code not in gone), 0),
    )


async def _patiently(call: Callable[[], Awaitable[None]]) -> None:
    """Until Kafka does it: it may have come up this very moment."""
    for _ in range(60):
        try:
            async with asyncio.timeout(30):
                return await call()
        except (HeadraceError, KafkaError, OSError):
            await asyncio.sleep(0.5)
    await call()
    return None
