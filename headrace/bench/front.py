"""The front half: requests over HTTP until all in-sync replicas have their payloads, several endpoints in turn."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from headrace.bench.figures import FrontRun
from headrace.bench.load import Load, run_load
from headrace.bench.payloads import make_bodies, make_payloads
from headrace.bench.usage import Meter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from headrace.bench.subject import Endpoint

BODIES: Final = 256
"""Different requests that take turns: more than lz4 looks back, so that packing looks no better than it is."""
SETTLE_SECONDS: Final = 0.3


@dataclass(frozen=True, slots=True)
class FrontPlan:
    """Seconds of load and of warming up, each time; connections; payloads a request, a run each; bytes of a payload."""

    seconds: float
    warmup: float
    connections: int
    payloads: Sequence[int]
    payload_bytes: int
    rounds: int


async def measure_front(
    plan: FrontPlan, endpoints: Sequence[Endpoint], servers: Mapping[str, int | None]
) -> AsyncIterator[FrontRun]:
    """One run for each round, number of payloads and endpoint. Who goes first changes from round to round."""
    data = make_payloads(BODIES * max(plan.payloads), plan.payload_bytes)
    for number in range(plan.rounds):
        turn = number % len(endpoints)
        for payloads in plan.payloads:
            bodies = make_bodies(data, payloads, BODIES)
            for endpoint in [*endpoints[turn:], *endpoints[:turn]]:
                load = Load(endpoint.url, bodies, plan.connections, plan.seconds, headers=endpoint.headers)
                if plan.warmup > 0:
                    warmup = Load(endpoint.url, bodies, plan.connections, plan.warmup, headers=endpoint.headers)
                    await run_load(warmup)
                    await asyncio.sleep(SETTLE_SECONDS)
                meter = Meter({"server": endpoint.pid, **servers})
                answers = await run_load(load)
                used = meter.read()
                yield FrontRun(
                    subject=endpoint.name,
                    round=number + 1,
                    payloads=payloads,
                    payload_bytes=plan.payload_bytes,
                    connections=plan.connections,
                    answers=answers,
                    used=used,
                    generator_cpu_seconds=meter.children_seconds(),
                    noise=meter.noise(used),
                )
