"""References to measure against: what uvicorn, or aiokafka, costs before headrace does anything."""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

_ANSWER: Final = b'{"accepted":0}'
_HEADERS: Final = [(b"content-type", b"application/json"), (b"content-length", str(len(_ANSWER)).encode())]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the whole body, looks at nothing, answers 200."""
    assert scope["type"] == "http"
    body = bytearray()
    more = True
    while more:
        message: Message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _ANSWER})


def serve(port: int) -> None:
    """The app behind uvicorn, set up as headrace's own server."""
    import uvicorn

    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        http="httptools",
        ws="none",
        loop="uvloop",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=2048,
    )


async def read(topic: str, records: int) -> None:
    """The getmany of aiokafka, values joined by lines, gzip level 1, thrown away: a reader as anyone writes it.

    Prints what it took, as JSON.
    """
    from aiokafka import AIOKafkaConsumer
    from isal import igzip

    from headrace.settings import KafkaSettings, load

    consumer = AIOKafkaConsumer(
        topic,
        **load(KafkaSettings).kafka_options(),
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_partition_fetch_bytes=4 * 1024 * 1024,
    )
    await consumer.start()
    started = time.process_time()
    began, found, stored = time.monotonic(), 0, 0
    try:
        while found < records:
            for batch in (await consumer.getmany(timeout_ms=1000)).values():
                found += len(batch)
                stored += len(igzip.compress(b"\n".join([record.value for record in batch]), 1))
    finally:
        await consumer.stop()
    told = {
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time(),
        "start_cpu_seconds": started,
        "stored_bytes": stored,
        "rss_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    sys.stdout.write(json.dumps(told) + "\n")


def main() -> None:
    what, argument, *rest = sys.argv[1:]
    gc.freeze()
    if what == "http":
        serve(int(argument))
    else:
        import uvloop

        uvloop.run(read(argument, int(rest[0])))


if __name__ == "__main__":
    main()
