"""An S3 store: listings show what was put; answers get lost, and a PUT may land after its writer gave it up.

The premise holds (DESIGN.md, section 3): none lands later than the upload deadline after it was given up, be it by its
writer's choice, by its death, or at the store when its writer is paused.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from headrace.s3 import ListedObject, S3Refused, S3Unavailable, StoredObject

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from tests.simulation.virtual import Process
    from tests.simulation.world import World

NOW = datetime(2026, 11, 22, tzinfo=UTC)
PAGE = 12


@dataclass(frozen=True)
class Stored:
    body: bytes
    metadata: Mapping[str, str]


@dataclass(eq=False)
class Flight:
    """A PUT under way. `lands`: when the store will have it, if ever."""

    key: str
    stored: Stored
    process: Process
    lands: float | None = None
    timer: asyncio.TimerHandle | None = None
    given_up: bool = False


@dataclass
class Bucket:
    """What the store holds, and what is on its way to it."""

    world: World
    upload_timeout: float
    on_landing: Callable[[str, Stored, Process], None]
    objects: dict[str, Stored] = field(default_factory=dict)
    flights: dict[Flight, None] = field(default_factory=dict)

    def take_off(self, flight: Flight, lands_in: float) -> None:
        self.flights[flight] = None
        flight.lands = self.world.now + lands_in
        flight.timer = self.world.later(lands_in, self._land, flight)
        if flight.process.dead:
            self.given_up(flight)

    def given_up(self, flight: Flight) -> None:
        """Its writer does not wait any more: it may still land, but not for ever."""
        if flight not in self.flights:
            return
        flight.given_up = True
        latest = self.world.now + self.upload_timeout
        assert flight.timer is not None
        assert flight.lands is not None
        if flight.lands > latest:
            flight.timer.cancel()
            if self.world.chance(0.3):
                del self.flights[flight]
                return
            flight.lands = latest - self.world.dice.uniform(0, 0.2)
            flight.timer = self.world.later(max(0.0, flight.lands - self.world.now), self._land, flight)

    def died(self, process: Process) -> None:
        for flight in list(self.flights):
            if flight.process is process:
                self.given_up(flight)

    def _land(self, flight: Flight) -> None:
        del self.flights[flight]
        if flight.given_up:
            self.world.counts["landed-after-death" if flight.process.dead else "landed-late"] += 1
        self.world.say(flight.process.name, f"landed {flight.key}")
        self.on_landing(flight.key, flight.stored, flight.process)
        self.objects[flight.key] = flight.stored
        self.world.passing("put landed", flight.process)


class Store:
    """headrace.s3.ObjectStore as one process sees it."""

    def __init__(self, bucket: Bucket, process: Process, most_uploads: int) -> None:
        self._bucket = bucket
        self._world = bucket.world
        self._process = process
        self._most = most_uploads
        self._uploads = 0

    async def put(self, key: str, body: bytes, *, metadata: Mapping[str, str], content_type: str) -> None:
        world = self._world
        if not all(value.isascii() for value in metadata.values()):
            raise S3Refused("metadata is not ASCII")
        counted = "_headrace" not in key
        self._uploads += counted
        if self._uploads > self._most:
            world.violated(f"{self._process.name} has {self._uploads} uploads under way, MAX_WORKERS is {self._most}")
        flight = Flight(key, Stored(body, {name.lower(): told for name, told in metadata.items()}), self._process)
        if world.tracing:
            world.say(self._process.name, f"puts {key.rpartition('/')[2]}")
        if counted:
            world.passing("put sent", self._process)
        try:
            await self._fly(flight)
        except BaseException:
            self._bucket.given_up(flight)
            raise
        finally:
            self._uploads -= counted

    async def _fly(self, flight: Flight) -> None:
        world, weather, dice = self._world, self._world.weather, self._world.dice
        deadline = self._bucket.upload_timeout
        quick = dice.uniform(0.002, weather.s3_latency)
        if weather.s3_stalled_until > world.now:
            await asyncio.sleep(weather.s3_stalled_until - world.now)
            raise S3Unavailable("503 SlowDown")
        if weather.s3_down or world.chance(weather.s3_unavailable):
            world.counts["put-refused"] += 1
            await asyncio.sleep(quick)
            raise S3Unavailable("503 SlowDown")
        if weather.s3_forbidden:
            await asyncio.sleep(quick)
            raise S3Refused("403 AccessDenied")
        if world.chance(weather.s3_never):
            world.counts["put-unanswered"] += 1
            await self._silence()
        if world.chance(weather.s3_late):
            world.counts["put-late"] += 1
            latest = 2 * deadline
            self._bucket.take_off(flight, dice.choice((dice.uniform(quick, latest), latest - dice.uniform(0, 0.5))))
            answers = (
                (1.05 * deadline,) if weather.s3_silent else (quick, dice.uniform(quick, deadline), 1.05 * deadline)
            )
            await asyncio.sleep(dice.choice(answers))
            await self._silence(at_once=True)
        if world.chance(weather.s3_slow):
            quick += dice.uniform(0, 0.9 * deadline)
        lands = dice.uniform(0, quick)
        self._bucket.take_off(flight, lands)
        if world.chance(weather.s3_lost_answer):
            world.counts["put-answer-lost"] += 1
            await asyncio.sleep(lands + dice.choice((quick, 1.05 * deadline)))
            await self._silence(at_once=True)
        await asyncio.sleep(quick)

    async def _silence(self, *, at_once: bool = False) -> None:
        """No answer, until the client's own time-out."""
        if not at_once:
            await asyncio.sleep(self._bucket.upload_timeout)
        raise S3Unavailable("no answer")

    async def _read(self) -> None:
        world = self._world
        await asyncio.sleep(world.dice.uniform(0.001, 0.02))
        if world.weather.s3_forbidden:
            raise S3Refused("403 AccessDenied")
        if world.weather.s3_down or world.chance(world.weather.s3_read_errors):
            raise S3Unavailable("503 SlowDown")

    async def head(self, key: str) -> StoredObject | None:
        await self._read()
        found = self._bucket.objects.get(key)
        return None if found is None else StoredObject(key, len(found.body), NOW, found.metadata)

    async def get(self, key: str) -> bytes | None:
        await self._read()
        found = self._bucket.objects.get(key)
        return None if found is None else found.body

    async def list(self, prefix: str) -> AsyncIterator[ListedObject]:
        last = ""
        while True:
            await self._read()
            keys = [key for key in self._bucket.objects if key.startswith(prefix) and key.encode() > last.encode()]
            keys.sort(key=str.encode)
            for key in keys[:PAGE]:
                yield ListedObject(key, len(self._bucket.objects[key].body), NOW)
            if len(keys) <= PAGE:
                return
            last = keys[PAGE - 1]


@contextlib.asynccontextmanager
async def open_store(bucket: Bucket, process: Process, most_uploads: int) -> AsyncIterator[Store]:
    yield Store(bucket, process, most_uploads)
