"""A run: archivers, a producer and an adversary, until the plan is done, the harm is healed, and all is idle again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from aiokafka import TopicPartition
from aiokafka.consumer import group_coordinator, subscription_state

from consumer.encode import open_format
from consumer.layout import Layout
from consumer.runner import Archiver, Edges
from consumer.settings import ConsumerSettings
from headrace.errors import HeadraceError
from headrace.management import Health
from headrace.record import StoredRecord
from tests.simulation import kafka, store
from tests.simulation.group import GroupCoordinator, GroupState
from tests.simulation.logs import Log
from tests.simulation.oracle import Oracle, WatchedBudget
from tests.simulation.plan import MOMENTS, Plan, draw, profile_of
from tests.simulation.virtual import OWNER, Process, Stuck, VirtualLoop
from tests.simulation.world import Tally, Trap, Weather, World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from consumer.session import Session

TOPIC = "t"
BASE_MS = 1_763_772_600_000  # half an hour before an hour's end
PATIENCE_SECONDS = 150.0
"""So long may it take, after all harm has been healed, until everything is stored and committed."""
ENDING_SECONDS = 60.0
LINE_BYTES = 160
"""More than any record's line here."""


class WatchedHealth(Health):
    def __init__(self, world: World, name: str) -> None:
        super().__init__()
        self._world = world
        self._name = name

    def report(self, part: str, problem: str | None) -> None:
        super().report(part, problem)
        if problem is not None and part.startswith(f"{TOPIC}/"):
            self._world.violated(f"{self._name} has halted {part}: {problem}")


class WatchedArchiver(Archiver):
    """The real one, with an eye on its memory."""

    world: World
    fetch: int
    """Records of one fetch."""

    def _session(self, *args: Any, **kwargs: Any) -> Session:
        session = super()._session(*args, **kwargs)
        settings = self._settings
        # A fetch, a claimed chunk that must go on, and a body beside its lines.
        slack = (self.fetch + 3 * settings.chunk_max_records) * LINE_BYTES
        session._dispatcher.budget = WatchedBudget(settings.memory_budget_bytes, slack, self.world)
        return session


class Archive(Process):
    """An archiver's process."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.stop = asyncio.Event()
        self.task: asyncio.Task[bool] | None = None
        self.coordinator: Any = None

    @property
    def ended(self) -> bool:
        return self.dead or self.task is None or self.task.done()


class Run:
    """One schedule from beginning to end."""

    def __init__(self, world: World, plan: Plan) -> None:
        self.world = world
        self.plan = plan
        form = open_format("jsonl", plan.settings["compression"])
        self.settings = ConsumerSettings.model_construct(
            kafka_topic=(TOPIC,), kafka_group="g", s3_bucket="bucket", s3_prefix="p", **plan.settings
        )
        layout = Layout("p", plan.settings["object_path"], form.suffix)
        self.logs = {number: Log(number) for number in range(plan.partitions)}
        self.oracle = Oracle(world, self.logs, layout)
        self.group = GroupCoordinator(world, TOPIC, self.oracle.on_commit, most_metadata=plan.most_metadata)
        self.broker = kafka.Broker(world, TOPIC, self.logs, self.group)
        self.broker.compacting = plan.compacting
        self.broker.most_records = plan.most_records
        self.bucket = store.Bucket(world, plan.settings["upload_timeout_seconds"], self.oracle.landed)
        self.archives: list[Archive] = []
        self.ending = False
        world.spring = self._spring
        world.weather = plan.weather

    # Processes

    def spawn(self) -> Archive:
        world = self.world
        process = Archive(f"w{len(self.archives)}")
        self.archives.append(process)
        edges = Edges(
            open_store=lambda settings, **_: store.open_store(self.bucket, process, settings.max_workers),
            open_cluster=lambda _: kafka.open_cluster(self.broker, process),
            new_consumer=partial(self._consumer, process),
            clock=world.loop.time,
        )
        archiver = WatchedArchiver(self.settings, health=WatchedHealth(world, process.name), edges=edges)
        archiver.world, archiver.fetch = world, self.plan.partitions * self.plan.most_records
        world.say(process.name, "starts")
        process.task = world.loop.start(process, archiver.run(process.stop))
        process.task.add_done_callback(partial(self._ended, process), context=world.context)
        return process

    def _consumer(self, process: Archive, **options: Any) -> kafka.Consumer:
        def started(coordinator: Any) -> None:
            process.coordinator = coordinator

        return kafka.Consumer(self.broker, process, started, **options)

    def _ended(self, process: Archive, task: asyncio.Task[bool]) -> None:
        error = None if task.cancelled() else task.exception()
        self.world.say(process.name, f"ended {error!r}")
        if error is not None and not _excused(error):
            self.world.violated(f"{process.name} ended by {_told(error)}")

    def running(self) -> list[Archive]:
        return [process for process in self.archives if process.running and not process.ended]

    def kill(self, process: Archive) -> None:
        self.world.say(process.name, "killed")
        process.stopped = process.dead = True
        self.bucket.died(process)

    def pause(self, process: Archive, seconds: float) -> None:
        self.world.say(process.name, f"paused {seconds:.1f}")
        process.stopped = True
        self.world.later(seconds, self.resume, process)

    def cut_off(self, process: Archive, seconds: float) -> None:
        self.world.say(process.name, f"cut-off {seconds:.1f}")
        process.cut = True
        self.world.later(seconds, self.reconnect, process)
        if self.plan.uploads_wait_when_cut:
            weather, stalled = self.world.weather, self.world.dice.uniform(3, 5.8)
            weather.s3_stalled_until = self.world.now + stalled
            weather.s3_silent = True
            self.world.later(stalled - 0.01, partial(setattr, weather, "s3_late", 1.0))
            self.world.later(stalled + 2, partial(setattr, weather, "s3_late", weather.s3_late))

    def reconnect(self, process: Archive) -> None:
        process.cut = False

    def resume(self, process: Archive) -> None:
        if process.stopped and not process.dead:
            self.world.say(process.name, "resumed")
            self.world.loop.resume(process)

    def terminate(self, process: Archive) -> None:
        self.world.say(process.name, "terminated")
        process.stop.set()

    def _spring(self, trap: Trap, process: Process) -> None:
        assert isinstance(process, Archive)
        self.world.say("trap", f"sprung at {trap.moment}: {trap.harm} {process.name}")
        self._harm(trap.harm, process)

    def _harm(self, harm: str, process: Archive) -> None:
        dice = self.world.dice
        if harm == "kill":
            self.kill(process)
            self.world.later(dice.uniform(0.05, 4), self._again)
        elif harm == "cut off":
            self.cut_off(process, dice.uniform(*dice.choice(self.plan.pauses)))
        elif harm == "pause":
            self.pause(process, dice.uniform(*dice.choice(self.plan.pauses)))
        else:
            self.terminate(process)
            self.world.later(dice.uniform(0.05, 8), self._again)

    def _again(self) -> None:
        if not self.ending and len([process for process in self.archives if not process.ended]) < 3:
            self.spawn()

    # Load

    async def produce(self) -> None:
        """Bursts of records, markers and transactions to all partitions, for most of the plan's time."""
        dice, plan = self.world.dice, self.plan
        left = plan.records
        while left > 0:
            burst = min(left, dice.choice((1, 3, 10, 30)))
            left -= burst
            log = self.logs[dice.randrange(plan.partitions)]
            if self.world.chance(plan.transactions):
                await self._transaction(log, burst)
            else:
                for _ in range(burst):
                    self._append(log)
                    if dice.random() < 0.03:
                        for _ in range(dice.randrange(1, 4)):
                            log.mark()
            self.broker.grown()
            await asyncio.sleep(dice.expovariate(plan.records / plan.seconds / burst / 1.3))

    async def _transaction(self, log: Log, burst: int) -> None:
        aborted = self.world.dice.random() < 0.3
        first = log.end
        log.open.append(first)
        for _ in range(burst):
            self._append(log, readable=not aborted)
        self.world.later(self.world.dice.uniform(0.05, 3), self._end_transaction, log, first)

    def _end_transaction(self, log: Log, first: int) -> None:
        if first in log.open:
            log.open.remove(first)
            log.mark()
            self.broker.grown()

    def _append(self, log: Log, *, readable: bool = True) -> None:
        dice = self.world.dice
        offset = log.end
        timestamp = BASE_MS + int(self.world.now * 1000)
        odd = dice.random()
        if odd < 0.15:
            timestamp += 3_600_000
        elif odd < 0.17:
            timestamp = -1
        value = b'{"n":%d,"p":"%s"}' % (offset, b"x" * int(odd * 40))
        log.append(StoredRecord(offset, timestamp, None, value), readable=readable)
        if readable:
            self.oracle.appended(log.partition, offset)

    # Harm

    async def adversary(self) -> None:
        dice, plan = self.world.dice, self.plan
        moments = sorted(dice.uniform(0.1, plan.seconds) for _ in range(plan.actions))
        names, weights = list(plan.harm), list(plan.harm.values())
        for moment in moments:
            if moment > self.world.now:
                await asyncio.sleep(moment - self.world.now)
            await self._act(dice.choices(names, weights)[0])

    async def _act(self, action: str) -> None:
        world, dice, running = self.world, self.world.dice, self.running()
        match action:
            case "kill" | "pause" | "terminate" | "cut off":
                if running:
                    self._harm(action, dice.choice(running))
            case "trap kill" | "trap pause" | "trap cut off":
                world.traps.append(Trap(dice.choice(MOMENTS), dice.randrange(6), action.partition(" ")[2]))
            case "join":
                self._again()
            case "rejoin":  # as when the client hears of other partitions
                if running and (client := dice.choice(running).coordinator) is not None:
                    client.request_rejoin()
            case "storm":
                for _ in range(dice.randrange(2, 5)):
                    self._again()
                    await asyncio.sleep(dice.uniform(0.1, 1.5))
                    if still := self.running():
                        self._harm(dice.choice(("terminate", "kill")), dice.choice(still))
            case "s3 forbidden" | "s3 down":
                world.say("s3", f"is {action[3:]}")
                name = action.replace(" ", "_")
                setattr(world.weather, name, True)
                world.later(dice.uniform(0.5, 8), partial(setattr, world.weather, name, False))
            case "retention":
                self._retention()
            case "compact":
                self._compact()
            case "exodus":
                await self._exodus()
            case "sleep through exodus" | "be cut off at exodus":
                harm = "pause" if action.startswith("sleep") else "cut off"
                world.traps.append(Trap(dice.choice(("put sent", "put landed")), 0, harm))
                for _ in range(30):
                    if any((process.stopped or process.cut) and not process.dead for process in self.archives):
                        await self._exodus()
                        break
                    await asyncio.sleep(0.1)
            case _:
                raise AssertionError(action)

    def _retention(self) -> None:
        log = self.logs[self.world.dice.randrange(self.plan.partitions)]
        before = self.world.dice.randint(log.start, log.stable)
        if self.world.dice.random() < 0.5:  # around the first claim
            stands = max(log.start, self.oracle.truths[log.partition].committed)
            before = min(log.stable, stands + self.world.dice.randrange(20))
        self.world.say("kafka", f"deletes {log.partition} below {before}")
        log.delete_before(before)

    def _compact(self) -> None:
        if not self.plan.compacting:
            return
        dice = self.world.dice
        log = self.logs[dice.randrange(self.plan.partitions)]
        gone = {record.offset for record in log.records[:-1] if record.offset < log.stable and dice.random() < 0.4}
        self.world.say("kafka", f"compacts {log.partition}: {sorted(gone)}")
        log.compact(gone)
        self.oracle.compacted(log.partition, gone)

    async def _exodus(self) -> None:
        """All leave; while the group is empty, an operator moves its offsets; then somebody comes again."""
        dice = self.world.dice
        for process in self.archives:
            absent = process.stopped or process.cut
            if process.ended or (absent and dice.random() < self.plan.exodus_keeps_paused):
                continue
            if process.stopped or dice.random() < 0.5:
                self.kill(process)
            else:
                self.terminate(process)
        for _ in range(200):
            if self.group.state is GroupState.EMPTY:
                self._reset(dice.choices(list(self.plan.resets), list(self.plan.resets.values()))[0])
                break
            await asyncio.sleep(0.25)
        await asyncio.sleep(self.plan.exodus_rest)
        for _ in range(dice.choice((1, 1, 2))):
            self._again()

    def _reset(self, kind: str) -> None:
        """With the semantics of kafka-consumer-groups.sh: only of an empty group, and without metadata."""
        dice, group = self.world.dice, self.group
        log = self.logs[dice.randrange(self.plan.partitions)]
        tp = TopicPartition(TOPIC, log.partition)
        found = group.offsets.get(tp)
        if found is None:
            return
        self.world.say("operator", f"resets {tp.partition} {kind}")
        match kind:
            case "delete":
                del group.offsets[tp]
                self.oracle.forgotten(tp)
            case "zero":
                group.put_offset(tp, 0, "", "operator")
            case "middle":
                group.put_offset(tp, dice.randint(0, max(found.offset, 0)), "", "operator")
            case "beyond":
                group.put_offset(tp, dice.randint(found.offset, log.end), "", "operator")
            case "carried":
                group.put_offset(tp, dice.randint(0, log.end), found.metadata, "operator")
            case "remove":
                truth = self.oracle.truths[tp.partition]
                keys = sorted(key for keys in truth.objects.values() for key in keys)
                if keys:
                    key = dice.choice(keys)
                    self.world.say("operator", f"removes {key}")
                    del self.bucket.objects[key]
                    start = self.oracle.removed(key).start
                    group.put_offset(tp, dice.choice((0, start)), "", "operator")

    # The whole

    def heal(self) -> None:
        world = self.world
        world.say("world", "heals")
        world.weather = Weather()
        world.traps.clear()
        for log in self.logs.values():
            log.open.clear()
        self.broker.grown()
        for process in self.archives:
            self.reconnect(process)
            self.resume(process)

    async def go(self) -> None:
        world = self.world
        for _ in range(self.plan.workers):
            self.spawn()
        producing = asyncio.create_task(self.produce())
        await self.adversary()
        await producing
        if world.now < self.plan.seconds:
            await asyncio.sleep(self.plan.seconds - world.now)
        self.heal()
        deadline = world.now + PATIENCE_SECONDS
        while (what := self.oracle.whole()) is not None:
            if world.now > deadline:
                world.violated(f"not idle {PATIENCE_SECONDS:g} s after all harm was healed: {what}")
                return
            if not self.running() or all(process.stop.is_set() for process in self.running()):
                self.spawn()
            await asyncio.sleep(0.5)
        await self._end()

    async def _end(self) -> None:
        world = self.world
        self.ending = True
        for process in self.running():
            self.terminate(process)
        deadline = world.now + ENDING_SECONDS
        while self.running():
            if world.now > deadline:
                names = [process.name for process in self.running()]
                world.violated(f"{names} have not ended {ENDING_SECONDS:g} s after SIGTERM")
                return
            await asyncio.sleep(0.2)
        while self.bucket.flights:
            await asyncio.sleep(0.5)
        self.oracle.judge(self.bucket.objects)


def _told(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


def _excused(error: BaseException) -> bool:
    """Where an operator removed an object under the eyes of somebody who was about to ask for it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return isinstance(error, HeadraceError) and "is gone now" in str(error)


@contextlib.contextmanager
def _virtual_time(loop: VirtualLoop, seed: int) -> Iterator[None]:
    """aiokafka's clock is the loop's, and jitter comes from the seed."""
    state, before = random.getstate(), (group_coordinator.time, subscription_state.time)
    random.seed(seed)
    group_coordinator.time = subscription_state.time = SimpleNamespace(monotonic=loop.time)
    try:
        yield
    finally:
        random.setstate(state)
        group_coordinator.time, subscription_state.time = before


class _TraceHandler(logging.Handler):
    def __init__(self, world: World) -> None:
        super().__init__(logging.DEBUG)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        owner = OWNER.get()
        who = "world" if owner is None else owner.name
        self._world.say(who, f"log: {record.levelname.lower()} {record.name}: {record.getMessage()}")


@contextlib.contextmanager
def _logging(world: World) -> Iterator[None]:
    root = logging.getLogger()
    if not world.tracing:
        before = root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)
        return
    handler, level, others = _TraceHandler(world), root.level, root.handlers[:]
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers[:] = others
        root.setLevel(level)


def simulate(seed: int, *, profile: str = "", tracing: bool = False) -> Tally:
    """Run the seed's schedule. The same seed gives the same run, step by step, in any process.

    `profile`: another kind of schedule than the seed's own.
    """
    profile = profile or profile_of(seed)
    world = World(seed, tracing=tracing)
    loop = world.loop
    loop.set_exception_handler(partial(_unhandled, world))
    with _virtual_time(loop, seed), _logging(world):
        run: Run | None = None

        async def main() -> None:
            nonlocal run
            run = Run(world, draw(world.dice, profile))
            going = asyncio.ensure_future(run.go())
            await asyncio.wait((going, world.over), return_when=asyncio.FIRST_COMPLETED)
            if going.done():
                going.result()

        try:
            loop.run_until_complete(main())
        except Stuck as stuck:
            world.violated(str(stuck))
            loop.most_steps += 100_000
        if run is not None:
            _dispose(run)
        loop.close()
    return Tally(seed, profile, world.violation, loop.now, loop.steps, world.counts, world.trace)


def _unhandled(world: World, _loop: Any, context: dict[str, Any]) -> None:
    error = context.get("exception")
    world.violated(f"unhandled: {context.get('message')} {error!r}")


def _dispose(run: Run) -> None:
    """End what the run has left, dead processes too, so that nothing of it is found by the garbage collector."""
    loop = run.world.loop
    loop.set_exception_handler(lambda _loop, _context: None)
    run.world.weather = Weather()
    run.world.traps.clear()
    run.world.tracing = False
    for process in run.archives:
        process.dead = False
        loop.resume(process)
    for _ in range(20):
        tasks = asyncio.all_tasks(loop)
        if not tasks:
            return
        for task in sorted(tasks, key=hash):
            task.cancel()
        with contextlib.suppress(Stuck):
            loop.run_until_complete(asyncio.wait(tasks, timeout=100))
    raise AssertionError(f"tasks can't be ended: {asyncio.all_tasks(loop)}")
