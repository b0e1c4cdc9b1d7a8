"""When and how a producer leaves: at a signal, at the end of its supervisor, or because another took its place."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final, Protocol

from producer.farewell import farewell_seconds, say_farewell
from producer.workers import EXCHANGE, REPLACED

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence

    from headrace.management import EmbeddedServer, Health
    from producer.settings import ProducerSettings

logger = logging.getLogger(__name__)

LAST_WORDS_SECONDS: Final = 0.5  # of DRAIN_SECONDS, so that the last answers still get out


class Draining(Protocol):
    """What finishes what it has begun."""

    def drain(self, until: float) -> None:
        """Nothing is waited for beyond `until` (the loop's time)."""
        ...


class Ending:
    """Is asked once, and then a second time by who is in a hurry.

    First the producer isn't ready any more, unless another has taken its place: then somebody else is. Then it says
    farewell to its clients, while what is in flight is finished within DRAIN_SECONDS.
    """

    def __init__(
        self,
        settings: ProducerSettings,
        server: EmbeddedServer,
        listener: socket.socket,
        health: Health,
        group: asyncio.TaskGroup,
        draining: Sequence[Draining],
    ) -> None:
        self._settings = settings
        self._server = server
        self._listener = listener
        self._health = health
        self._group = group
        self._draining = draining
        self._loop = asyncio.get_running_loop()
        self._replaced = False
        self._is_patient = False
        self.begun = asyncio.Event()
        self.parts: list[asyncio.Task[None]] = []
        """The tasks that end with the server."""
        self.management: asyncio.Task[None] | None = None
        """Of these, the one that has MANAGEMENT_PORT."""

    @contextlib.contextmanager
    def on_exchange(self, *, worker: bool) -> Iterator[None]:
        """Listens to the signals by which workers are exchanged."""
        if worker:
            self._loop.add_signal_handler(REPLACED, self.make_room)
        else:
            self._loop.add_signal_handler(EXCHANGE, logger.warning, "Only workers can be exchanged: set WORKERS to 2")
        try:
            yield
        finally:
            self._loop.remove_signal_handler(REPLACED if worker else EXCHANGE)

    def make_room(self) -> None:
        """Another worker has taken over; the first asking to end after that is the supervisor's own, and no hurry."""
        if self.begun.is_set():
            return
        self._replaced = self._is_patient = True
        if self.management is not None:
            self.management.cancel()  # its port is for the next one
        self.ask("Another worker has taken over")

    def ask(self, why: str) -> None:
        if not self.begun.is_set():
            self._begin(why)
        elif self._is_patient:
            self._is_patient = False
        else:
            logger.info("%s: leaving at once", why)
            self._server.should_exit = self._server.force_exit = True
            for part in self.parts:
                part.cancel()

    def _begin(self, why: str) -> None:
        self.begun.set()
        seconds = self._settings.drain_seconds
        logger.info("%s: leaving, requests in flight have %g s", why, seconds)
        if not self._replaced:
            self._health.report("leaving", "The producer is leaving.")
        until = self._loop.time() + max(seconds - LAST_WORDS_SECONDS, 0)
        for part in self._draining:
            part.drain(until)
        farewell = say_farewell(self._server, self._listener, farewell_seconds(self._settings), replaced=self._replaced)
        self.parts.append(self._group.create_task(farewell))
