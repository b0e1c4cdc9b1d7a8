"""A whole benchmark: what is wished for, what that makes, and the parts one after the other."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from headrace.bench import subject
from headrace.bench.back import BackPlan, measure_back
from headrace.bench.curves import BackPoint, points_of
from headrace.bench.figures import OURS, Figures, middle
from headrace.bench.front import FrontPlan, measure_front
from headrace.bench.scaling import chosen_curves, measure_scaling, scaling_line
from headrace.bench.subject import Endpoint
from headrace.bench.whole import WholePlan, measure_whole
from headrace.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    from headrace.bench.figures import BackRun, FrontRun, WholeRun
    from headrace.bench.place import Place
    from headrace.bench.workspace import Workspace

KEEP_BYTES: Final = 256 * 1024 * 1024
"""Of a partition that is only written to: older segments go."""
MODEST_RATE: Final = 500.0
"""Requests a second for both halves together, where no run of the front half tells what would be half of its best."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What to measure, and how much of it. Seconds, bytes; `rate` in requests a second, None: half of the best."""

    parts: frozenset[str]
    rounds: int
    seconds: float
    warmup: float
    connections: int
    payloads: Sequence[int]
    payload_bytes: int
    workers: int
    records: int
    record_bytes: Sequence[int]
    partitions: int
    processes: int
    rate: float | None
    steady_seconds: float
    flush_seconds: float
    reference: bool
    peer_go: Path | None = None
    url: str | None = None
    pid: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    curves: Sequence[str] = ()
    quick: bool = False

    @property
    def needs_s3(self) -> bool:
        return bool(self.parts & {"back", "together", "scaling"})


def what_it_makes(wishes: Wishes, place: Place, workspace: Workspace) -> list[str]:
    """Sentences that tell a person what a run will do to Kafka and S3, before it does it."""
    told = [f"Place: {place.words}."]
    if wishes.url is not None:
        told.append(
            f"Requests: as many as {wishes.url} takes. What they carry goes where that endpoint sends it, and stays."
        )
    made = []
    if "front" in wishes.parts and wishes.url is None:
        made.append("what is posted")
    if "back" in wishes.parts:
        sizes = " and ".join(f"{size}" for size in wishes.record_bytes)
        made.append(f"{wishes.records:,} records of {sizes} bytes")
    if "together" in wishes.parts:
        made.append("a steady load")
    if made:
        told.append(
            f"Topics: {workspace.run}-…, {wishes.partitions} partitions each, for {', '.join(made)}; consumer groups "
            f"of that name."
        )
    if "scaling" in wishes.parts:
        partitions = [
            point.partitions
            for curve in chosen_curves(wishes.curves)
            for point in points_of(curve, quick=wishes.quick)
            if isinstance(point, BackPoint)
        ]
        count = len(partitions) * wishes.rounds
        told.append(
            f"Topics for the scaling curves: {count}, {workspace.run}-at-…, up to {max(partitions, default=0):,} "
            f"partitions each, filled in a transaction, and as many groups; {workspace.run}-front for what is posted."
        )
    if wishes.needs_s3 and place.s3 is not None:
        told.append(f"Objects: below s3://{place.s3.s3_bucket}/{workspace.prefix}/.")
    return told


async def run_benchmark(
    wishes: Wishes, place: Place, workspace: Workspace, figures: Figures, say: Callable[[str], None]
) -> None:
    """Measure part by part into `figures`, telling each run as it ends. On an error, what is measured stays there."""
    if "front" in wishes.parts:
        async with contextlib.AsyncExitStack() as stack:
            endpoints = [await stack.enter_async_context(each) for each in _endpoints(wishes, place, workspace, say)]
            plan = FrontPlan(
                seconds=wishes.seconds,
                warmup=wishes.warmup,
                connections=wishes.connections,
                payloads=wishes.payloads,
                payload_bytes=wishes.payload_bytes,
                rounds=wishes.rounds,
            )
            async for front in measure_front(plan, endpoints, place.servers):
                figures.front.append(front)
                say(front_line(front))
    if "back" in wishes.parts:
        say(f"Filling topics with {wishes.records:,} records each …")
        back_plan = BackPlan(
            records=wishes.records,
            record_bytes=wishes.record_bytes,
            processes=wishes.processes,
            chunk_seconds=wishes.flush_seconds,
            rounds=wishes.rounds,
            reference=wishes.reference,
        )
        async for back in measure_back(back_plan, place, workspace):
            figures.back.append(back)
            say(back_line(back))
    if "together" in wishes.parts:
        for number in range(1, wishes.rounds + 1):
            whole = await measure_whole(_whole_plan(wishes, figures), place, workspace, number)
            figures.whole.append(whole)
            say(whole_line(whole))
    if "scaling" in wishes.parts:
        curves, rounds, quick = wishes.curves, wishes.rounds, wishes.quick
        async for reading in measure_scaling(place, workspace, curves=curves, rounds=rounds, quick=quick, say=say):
            figures.scaling.append(reading)
            say(scaling_line(reading))


def _endpoints(
    wishes: Wishes, place: Place, workspace: Workspace, say: Callable[[str], None]
) -> list[contextlib.AbstractAsyncContextManager[Endpoint, bool | None]]:
    if wishes.url is not None:
        return [contextlib.nullcontext(Endpoint(OURS, wishes.url, wishes.pid, wishes.headers))]

    @contextlib.asynccontextmanager
    async def ours() -> AsyncIterator[Endpoint]:
        topic = await workspace.topic("front", keep_bytes=KEEP_BYTES)
        async with subject.headrace_producer(place, topic, workers=wishes.workers) as endpoint:
            yield endpoint

    endpoints: list[contextlib.AbstractAsyncContextManager[Endpoint, bool | None]] = [ours()]
    if wishes.reference:
        endpoints.append(subject.floor(place))
    if wishes.peer_go is not None:
        source = wishes.peer_go
        problem = subject.why_no_go_peer(place, source)

        @contextlib.asynccontextmanager
        async def peer() -> AsyncIterator[Endpoint]:
            topic = await workspace.topic("front-go", keep_bytes=KEEP_BYTES)
            async with subject.go_peer(place, source, topic) as endpoint:
                yield endpoint

        if problem is None:
            endpoints.append(peer())
        else:
            say(f"The Go peer does not take part: {problem}.")
    return endpoints


def _whole_plan(wishes: Wishes, figures: Figures) -> WholePlan:
    payloads = max(wishes.payloads)
    rate = wishes.rate
    if rate is None:
        best = middle(run.requests_second for run in figures.front if (run.subject, run.payloads) == (OURS, payloads))
        rate = MODEST_RATE if best is None else max(1.0, best / 2)
    return WholePlan(
        rate=rate,
        seconds=wishes.steady_seconds,
        warmup=wishes.warmup,
        connections=wishes.connections,
        payloads=payloads,
        payload_bytes=wishes.payload_bytes,
        flush_seconds=wishes.flush_seconds,
        workers=wishes.workers,
        processes=wishes.processes,
        keep_bytes=KEEP_BYTES,
    )


def front_line(run: FrontRun) -> str:
    """One run in a line, to be read while the next goes on."""
    cost = run.cpu_us_request()
    paid = "" if cost is None else f", {cost:.1f} CPU-µs a request"
    return (
        f"front {run.round}: {run.subject}, {run.payloads} a request: {run.requests_second:,.0f} requests/s{paid}, "
        f"p99 {run.answers.p99_ms:.0f} ms{_trouble(run)}"
    )


def back_line(run: BackRun) -> str:
    return (
        f"back {run.round}: {run.subject}, {run.record_bytes} B: {run.cpu_us_record():.2f} CPU-µs a record, "
        f"{run.records / run.seconds:,.0f} records/s"
    )


def whole_line(run: WholeRun) -> str:
    unseen = f", {run.unseen} marked payloads NOT SEEN" if run.unseen else ""
    return (
        f"together {run.round}: {run.answers.requests / run.answers.seconds:,.0f} of {run.rate:,.0f} requests/s, "
        f"POST to S3 p50 {run.to_s3_at(0.5):.2f} s, p99 {run.to_s3_at(0.99):.2f} s{unseen}{_trouble(run)}"
    )


def _trouble(run: FrontRun | WholeRun) -> str:
    failures, errors = run.answers.failures, run.answers.errors
    return f", {failures} NOT 2xx, {errors} errors" if failures or errors else ""


def refuse_nonsense(wishes: Wishes) -> None:
    """Raise HeadraceError for wishes that contradict each other."""
    if wishes.url is not None and wishes.parts != {"front"}:
        raise HeadraceError("--url loads a running endpoint, which is the front half alone: say --only front with it.")
    if wishes.url is None and (wishes.pid is not None or wishes.headers):
        raise HeadraceError("--pid and --header are about the endpoint that --url names.")
    if (wishes.curves or wishes.quick) and "scaling" not in wishes.parts:
        raise HeadraceError("--curve and --quick are about the scaling curves: say --only scaling with them.")
