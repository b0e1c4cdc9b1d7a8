"""The archivers' processes: started, killed, paused, cut off, told to stop, cancelled; and watched."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from consumer.encode.lines import Lines
from consumer.runner import Archiver, Edges
from headrace.errors import HeadraceError
from headrace.kafka import TopicMissing
from headrace.management import Health
from tests.fakes import PressedLines
from tests.simulation import client, store
from tests.simulation.kinds import BODIES_BYTES
from tests.simulation.oracle import WatchedBudget
from tests.simulation.virtual import Process

if TYPE_CHECKING:
    from collections.abc import Callable

    from consumer.session import Session
    from consumer.settings import ConsumerSettings
    from consumer.taking import Bounds
    from tests.simulation.broker import Broker
    from tests.simulation.plan import Plan
    from tests.simulation.store import Bucket
    from tests.simulation.world import Trap, World

ROOT = Path(__file__).parent.parent.parent
LINE_BYTES = 200
"""More than any record's line here, and what a bucket of its own costs beside it."""
CANCELLED_SECONDS = 30.0
STOPPED_SECONDS = 40.0
"""So long may an ending take whose Kafka can be reached: the longest drain, and leaving twice over."""


class WatchedHealth(Health):
    def __init__(self, told: Callable[[str, str | None], None]) -> None:
        super().__init__()
        self._told = told

    def report(self, part: str, problem: str | None) -> None:
        super().report(part, problem)
        self._told(part, problem)


async def nothing_missing(*_: object) -> list[str]:
    """Seeds stay what they are. The probe is tested on real servers: tests/integration/test_s3_rights.py."""
    return []


class WatchedArchiver(Archiver):
    """The real one, with an eye on its memory."""

    world: World
    fetch: int
    """Records of one fetch."""

    def __init__(self, settings: ConsumerSettings, **more: Any) -> None:
        super().__init__(settings, **more)
        if isinstance(self._form, Lines) and self._form.press_bytes:
            self._form = PressedLines(self._form.compression, self._form.level)
            self._limits = replace(self._limits, press_bytes=self._form.press_bytes)

    def _session(self, *args: Any, **kwargs: Any) -> Session:
        session = super()._session(*args, **kwargs)
        settings = self._settings
        # A fetch, a claimed chunk that must go on, and a body beside its lines.
        slack = (self.fetch + 3 * settings.chunk_max_records) * LINE_BYTES + BODIES_BYTES.get(settings.format, 0)
        session._dispatcher.budget = WatchedBudget(settings.memory_budget_bytes, slack, self.world)
        return session


class Archive(Process):
    """An archiver's process."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.stop = asyncio.Event()
        self.task: asyncio.Task[bool] | None = None
        self.coordinator: Any = None
        self.halted: dict[str, str] = {}
        """Partitions that have stopped, and why."""
        self.disturbed = 0
        """How often it was paused or cut off."""

    @property
    def ended(self) -> bool:
        return self.dead or self.task is None or self.task.done()

    @property
    def reachable(self) -> bool:
        return self.running and not self.cut


class Fleet:
    """All archivers of one run. `settings` are those of whoever starts next."""

    def __init__(self, world: World, plan: Plan, settings: ConsumerSettings, broker: Broker, bucket: Bucket) -> None:
        self.world = world
        self.plan = plan
        self.settings = settings
        self.bounds: Callable[[], Bounds | None] = lambda: None
        """A replay's ranges, for whoever starts next."""
        self.finished: Callable[[Archive], None] = lambda _process: None
        """Called when a replay says that it is whole."""
        self.halts: tuple[str, ...] = ()
        """Parts of the sentences with which partitions may halt by now."""
        self.ending = False
        self.archives: list[Archive] = []
        self._broker = broker
        self._bucket = bucket
        world.spring = self._spring

    def spawn(self) -> Archive:
        world, most = self.world, self.plan.most_buckets
        settings = self.settings.model_copy(update={"chunk_max_buckets": most[len(self.archives) % len(most)]})
        process = Archive(f"w{len(self.archives)}")
        self.archives.append(process)
        edges = Edges(
            open_store=lambda settings, **_: store.open_store(self._bucket, process, settings.max_workers),
            open_cluster=lambda _: client.open_cluster(self._broker, process),
            new_consumer=partial(self._consumer, process),
            clock=world.loop.time,
            missing_rights=nothing_missing,
        )
        health = WatchedHealth(partial(self._told, process))
        archiver = WatchedArchiver(settings, health=health, edges=edges, bounds=self.bounds())
        archiver.world, archiver.fetch = world, self.plan.partitions * self.plan.most_records
        world.say(process.name, "starts")
        process.task = world.loop.start(process, archiver.run(process.stop))
        process.task.add_done_callback(partial(self._ended, process), context=world.context)
        return process

    def again(self) -> None:
        """Somebody comes, unless there are enough."""
        if not self.ending and len([process for process in self.archives if not process.ended]) < 3:
            self.spawn()

    def _consumer(self, process: Archive, **options: Any) -> client.Consumer:
        def started(coordinator: Any) -> None:
            process.coordinator = coordinator

        return client.Consumer(self._broker, process, started, **options)

    def _told(self, process: Archive, part: str, problem: str | None) -> None:
        if not part.startswith(f"{self._broker.topic}/"):
            return
        if problem is None:
            process.halted.pop(part, None)
            return
        process.halted[part] = problem
        self.world.say(process.name, f"halted {part}: {problem}")
        if not any(sentence in problem for sentence in self.halts):
            self.world.violated(f"{process.name} has halted {part}: {problem}")

    def _ended(self, process: Archive, task: asyncio.Task[bool]) -> None:
        if task.cancelled():
            self.world.say(process.name, "ended-cancelled")
            return
        error = task.exception()
        self.world.say(process.name, f"ended {error!r}")
        if error is None:
            if task.result():
                self.finished(process)
        elif not self._excused(error):
            self.world.violated(f"{process.name} ended by {_told(error)}")

    def _excused(self, error: BaseException) -> bool:
        """Where an operator removed an object under the eyes of somebody who was about to ask for it, or the topic."""
        error = _first(error)
        if isinstance(error, TopicMissing):
            return self._broker.incarnation > 1 or self._broker.missing
        return isinstance(error, HeadraceError) and "is gone now" in str(error)

    def running(self) -> list[Archive]:
        return [process for process in self.archives if process.running and not process.ended]

    # Harm

    def kill(self, process: Archive) -> None:
        self.world.say(process.name, "killed")
        process.stopped = process.dead = True
        self._bucket.died(process)

    def pause(self, process: Archive, seconds: float) -> None:
        self.world.say(process.name, f"paused {seconds:.1f}")
        process.stopped = True
        process.disturbed += 1
        self.world.later(seconds, self.resume, process)

    def resume(self, process: Archive) -> None:
        if process.stopped and not process.dead:
            self.world.say(process.name, "resumed")
            self.world.loop.resume(process)

    def cut_off(self, process: Archive, seconds: float) -> None:
        self.world.say(process.name, f"cut-off {seconds:.1f}")
        process.cut = True
        process.disturbed += 1
        self.world.later(seconds, self.reconnect, process)
        if self.plan.uploads_wait_when_cut:
            weather, stalled = self.world.weather, self.world.dice.uniform(3, 5.8)
            weather.s3_stalled_until = self.world.now + stalled
            weather.s3_silent = True
            self.world.later(stalled - 0.01, partial(setattr, weather, "s3_late", 1.0))
            self.world.later(stalled + 2, partial(setattr, weather, "s3_late", weather.s3_late))

    def reconnect(self, process: Archive) -> None:
        process.cut = False

    def terminate(self, process: Archive) -> None:
        """SIGTERM."""
        self.world.say(process.name, "terminated")
        process.stop.set()
        process.stopping = True
        if process.reachable:
            self.world.later(STOPPED_SECONDS, self._must_have_ended, process, process.disturbed, "SIGTERM")

    def cancel(self, process: Archive) -> None:
        """A second SIGTERM, so many steps from now: whatever is awaited then is cancelled, wherever it is."""
        steps = self.world.dice.choice((self.world.dice.randrange(30), self.world.dice.randrange(600)))

        def fire() -> None:
            if not process.ended and process.task is not None:
                self.world.say(process.name, "cancelled")
                process.stop.set()
                process.stopping = True
                process.task.cancel()
                if process.reachable:
                    times = process.disturbed
                    self.world.later(CANCELLED_SECONDS, self._must_have_ended, process, times, "being cancelled")

        process.burn(steps, fire)

    def _must_have_ended(self, process: Archive, disturbed: int, by: str) -> None:
        if process.dead or process.disturbed != disturbed:
            return
        if not process.ended:
            self.world.violated(f"{process.name} has not ended though it was told to by {by}")
        left = [task for task in self.world.loop.tasks_of(process) if _is_ours(task)]
        if process.ended and left:
            self.world.violated(f"{process.name} has ended by {by}, but its tasks go on: {left}")

    def _spring(self, trap: Trap, process: Process) -> None:
        assert isinstance(process, Archive)
        self.world.say("trap", f"sprung at {trap.moment}: {trap.harm} {process.name}")
        self.harm(trap.harm, process)

    def harm(self, harm: str, process: Archive) -> None:
        dice = self.world.dice
        if harm == "kill":
            self.kill(process)
            self.world.later(dice.uniform(0.05, 4), self.again)
        elif harm == "cut off":
            self.cut_off(process, dice.uniform(*dice.choice(self.plan.pauses)))
        elif harm == "pause":
            self.pause(process, dice.uniform(*dice.choice(self.plan.pauses)))
        elif harm == "cancel":
            self.cancel(process)
            self.world.later(dice.uniform(0.05, 8), self.again)
        else:
            self.terminate(process)
            self.world.later(dice.uniform(0.05, 8), self.again)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _told(error: BaseException) -> str:
    return f"{type(_first(error)).__name__}: {_first(error)}"


def _is_ours(task: asyncio.Task[Any]) -> bool:
    """aiokafka leaves tasks behind when its closing is cancelled; the process takes them along when it ends."""
    work = task.get_coro()
    path = Path(work.cr_code.co_filename) if isinstance(work, CoroutineType) else Path()
    return path.is_relative_to(ROOT / "consumer") or path.is_relative_to(ROOT / "headrace")
