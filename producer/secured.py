"""Connections that speak TLS: each counts, and is timed, from its first moment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from uvloop import loop as uvloop_loop

from producer.protocol import Connection

if TYPE_CHECKING:
    import ssl

_SslProtocol: Any = uvloop_loop.SSLProtocol  # type: ignore[attr-defined]  # no stub names it
_NOBODY: Final = asyncio.BufferedProtocol()


class Secured(Connection):
    """A connection whose client has to come to terms by TLS first.

    A server with a TLS context tells of a connection only then: until then it counts nowhere, for a minute. Here it is
    open as any other that waits with its first request, so MAX_CONNECTIONS and `end_slow_heads` hold for it.

    `loop.start_tls` would do, but begins a turn of the loop later, and uvloop reads in between.
    """

    tls: ssl.SSLContext
    patience: float
    """Seconds for a handshake, and for a client to take note that its connection ends."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if self.transport is not None:
            super().connection_made(transport)
            return
        self.transport = transport
        self.connections.add(self)
        if len(self.connections) > self.most:
            transport.abort()
            return
        waiter = self.loop.create_future()
        waiter.add_done_callback(self._end_unless_agreed)
        protocol = _SslProtocol(
            self.loop,
            self,
            self.tls,
            waiter,
            server_side=True,
            ssl_handshake_timeout=self.patience,
            ssl_shutdown_timeout=self.patience,
        )
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """As any other's; and uvloop, which would hold on to who read last, holds on to nobody."""
        super().connection_lost(exc)
        if self.flow is not None:
            self.transport.set_protocol(_NOBODY)

    def _end_unless_agreed(self, waiter: asyncio.Future[None]) -> None:
        """Nobody else tells of a connection that is lost during its handshake."""
        error = waiter.exception()
        if self.flow is None:
            self.connection_lost(error if isinstance(error, Exception) else None)


def secured_protocol(most: int, tls: ssl.SSLContext, patience: float) -> type[Secured]:
    """Takes `most` connections at a time, those among them whose handshake is under way."""
    return type("BoundedSecured", (Secured,), {"most": most, "tls": tls, "patience": patience})
