"""Figures as tables: the same rows for the terminal and for Markdown. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from headrace.bench.curves import CURVES, amounts, line_of
from headrace.bench.figures import middle, ordered_set

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from headrace.bench.curves import Curve, Reading
    from headrace.bench.figures import BackRun, Figures, FrontRun, WholeRun
    from headrace.bench.usage import Usage


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table: its columns, of which the first `left` hold words, and its rows."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1


def sheets(figures: Figures) -> list[Sheet]:
    """What there is to show; medians over the rounds, with the least and the most for CPU time."""
    found = []
    if figures.front:
        found += [_front_sheet(figures.front), _front_costs(figures.front)]
    if figures.back:
        found.append(_back_sheet(figures.back))
    if figures.whole:
        found += [_whole_sheet(figures.whole), _whole_costs(figures.whole)]
    drawn = {reading.curve for reading in figures.scaling}
    found += [_curve_sheet(curve, figures.scaling) for curve in CURVES if curve.name in drawn]
    ratios = figures.ratios()
    if ratios:
        rows = [
            [half, other, _size(half, size), f"{mid:.2f}", ", ".join(f"{value:.2f}" for value in rounds)]
            for half, size, other, mid, rounds in ratios
        ]
        title = "headrace's CPU time against the others', round by round"
        found.append(Sheet(title, ["half", "against", "size", "median", "rounds"], rows, left=2))
    return found


def _size(half: str, size: int) -> str:
    return f"{size} a request" if half == "front" else f"{size} B"


def _front_sheet(runs: Sequence[FrontRun]) -> Sheet:
    columns = ["endpoint", "payloads", "requests/s", "payloads/s", "p50 ms", "p99 ms", "p99.9 ms", "non-2xx", "errors"]
    rows = []
    for (subject, payloads), same in _grouped(runs, lambda run: (run.subject, run.payloads)):
        rate = middle(run.requests_second for run in same) or 0.0
        latencies = [middle(getattr(run.answers, name) for run in same) for name in ("p50_ms", "p99_ms", "p999_ms")]
        rows.append(
            [
                subject,
                str(payloads),
                f"{rate:,.0f}",
                f"{rate * payloads:,.0f}",
                *(number(value, 1) for value in latencies),
                str(sum(run.answers.failures for run in same)),
                str(sum(run.answers.errors for run in same)),
            ]
        )
    first = runs[0]
    title = (
        f"Front half: POST of {first.payload_bytes}-byte payloads, {first.connections} connections, "
        f"{first.answers.seconds:.0f} s a run, by {first.answers.tool}"
    )
    return Sheet(title, columns, rows)


def _front_costs(runs: Sequence[FrontRun]) -> Sheet:
    columns = [
        "endpoint",
        "payloads",
        "µs/request",
        "least-most",
        "µs/payload",
        "Kafka",
        "load",
        "RSS MiB",
        "out B/payload",
    ]
    rows = []
    for (subject, payloads), same in _grouped(runs, lambda run: (run.subject, run.payloads)):
        costs = [run.cpu_us_request() for run in same]
        out = middle(bytes_each(run, run.answers.requests * run.payloads) for run in same)
        load = middle(run.generator_cpu_seconds * 1e6 / (run.answers.requests or 1) for run in same)
        rows.append(
            [
                subject,
                str(payloads),
                number(middle(costs), 1),
                span(costs, 1),
                number(middle(run.cpu_us_payload() for run in same), 2),
                number(middle(run.cpu_us_request("kafka") for run in same), 1),
                number(load, 1),
                number(peak(same, "server"), 0),
                number(out, 0),
            ]
        )
    return Sheet("What it costs: CPU-µs a request of the endpoint, of Kafka and of the load generator", columns, rows)


def _back_sheet(runs: Sequence[BackRun]) -> Sheet:
    columns = [
        *("reader", "record", "records/s", "µs/record", "least-most", "without start", "start s"),
        *("Kafka", "S3", "RSS MiB", "stored"),
    ]
    rows = []
    for (subject, size), same in _grouped(runs, lambda run: (run.subject, run.record_bytes)):
        costs = [run.cpu_us_record() for run in same]
        stored = middle(run.stored_bytes / (run.records * run.record_bytes) for run in same if run.stored_bytes)
        rows.append(
            [
                subject,
                f"{size} B",
                f"{middle(run.records / run.seconds for run in same):,.0f}",
                number(middle(costs), 2),
                span(costs, 2),
                number(middle(run.cpu_us_record_running for run in same), 2),
                number(middle(run.start_cpu_seconds for run in same), 2),
                number(middle(run.cpu_us_record("kafka") for run in same), 2),
                number(middle(run.cpu_us_record("s3") for run in same), 2),
                number(peak(same, "consumer"), 0),
                "-" if stored is None else f"{stored:.1%}",
            ]
        )
    first = runs[0]
    title = f"Back half: {first.records:,} records in {first.partitions} partitions, CPU-µs a record"
    return Sheet(title, columns, rows)


def _whole_sheet(runs: Sequence[WholeRun]) -> Sheet:
    columns = [
        *("asked/s", "requests/s", "payloads/s", "non-2xx", "errors", "POST p50 ms", "p99 ms", "p99.9 ms"),
        *("to S3 p50 s", "p99 s", "most s", "unseen", "flush age s"),
    ]
    rows = []
    for rate, same in _grouped(runs, lambda run: run.rate):
        done = middle(run.answers.requests / run.answers.seconds for run in same) or 0.0
        posts = [middle(getattr(run.answers, name) for run in same) for name in ("p50_ms", "p99_ms", "p999_ms")]
        rows.append(
            [
                f"{rate:,.0f}",
                f"{done:,.0f}",
                f"{done * same[0].payloads:,.0f}",
                str(sum(run.answers.failures for run in same)),
                str(sum(run.answers.errors for run in same)),
                *(number(value, 1) for value in posts),
                *(number(middle(run.to_s3_at(share) for run in same), 2) for share in (0.5, 0.99, 1.0)),
                str(sum(run.unseen for run in same)),
                f"{same[0].flush_seconds:g}",
            ]
        )
    title = f"Both together: {runs[0].payloads} payloads a request at a steady rate, and from POST to readable in S3"
    return Sheet(title, columns, rows, left=0)


def _whole_costs(runs: Sequence[WholeRun]) -> Sheet:
    columns = ["asked/s", "serve µs/payload", "consume", "Kafka", "S3", "load", "serve RSS MiB", "consume RSS MiB"]
    rows = []
    for rate, same in _grouped(runs, lambda run: run.rate):
        names = ("server", "consumer", "kafka", "s3")
        load = middle(run.generator_cpu_seconds * 1e6 / (run.carried or 1) for run in same)
        rows.append(
            [
                f"{rate:,.0f}",
                *(number(middle(run.cpu_us_payload(name) for run in same), 2) for name in names),
                number(load, 2),
                number(peak(same, "server"), 0),
                number(peak(same, "consumer"), 0),
            ]
        )
    return Sheet("What both together cost: CPU-µs a payload of each process", columns, rows, left=0)


def _curve_sheet(curve: Curve, readings: Sequence[Reading]) -> Sheet:
    told = amounts(curve)
    lines: list[Mapping[int, float]] = [dict(line_of(curve, readings, amount)) for amount in told]
    rows = []
    for at in sorted({reading.at for reading in readings if reading.curve == curve.name}):
        same = [reading for reading in readings if (reading.curve, reading.at) == (curve.name, at)]
        cells = [number(line.get(at), digits) for line, (_, _, digits) in zip(lines, told, strict=True)]
        cells.insert(1, span([reading.cpu_us() for reading in same], 2))
        rows.append([f"{at:,}", *cells, str(sum(reading.troubles for reading in same))])
    columns = [name for name, _, _ in told]
    columns.insert(1, "least-most")
    title = f"Scaling, the {curve.half} half: {curve.name}"
    return Sheet(title, [curve.axis, *columns, "not taken"], rows, left=0)


def _grouped(runs: Iterable[Any], key: Any) -> list[tuple[Any, list[Any]]]:
    held = list(runs)
    return [(name, [run for run in held if key(run) == name]) for name in ordered_set(map(key, held))]


def number(value: float | None, digits: int) -> str:
    """With so many digits behind the point; a dash where nothing is known."""
    return "-" if value is None else f"{value:,.{digits}f}"


def span(values: Iterable[float | None], digits: int) -> str:
    """From the least to the most of what is known."""
    known = [value for value in values if value is not None]
    return f"{min(known):.{digits}f}-{max(known):.{digits}f}" if known else "-"


def peak(runs: Iterable[Any], process: str) -> float | None:
    """The largest resident set of a process over all runs, MiB."""
    used: list[Mapping[str, Usage]] = [run.used for run in runs]
    peaks = [usages[process].rss_peak_mib for usages in used if process in usages]
    return max((value for value in peaks if value is not None), default=None)


def bytes_each(run: FrontRun, count: int) -> float | None:
    """Bytes that the endpoint wrote, to Kafka and to its callers, for each of `count`."""
    usage = run.used.get("server")
    return None if usage is None or usage.bytes_out is None or not count else usage.bytes_out / count


def noise(figures: Figures) -> float:
    """The share of the machine that went to others, on average over all runs, 0 to 1."""
    runs: list[FrontRun | BackRun | WholeRun | Reading]
    runs = [*figures.front, *figures.back, *figures.whole, *figures.scaling]
    return fmean([run.noise for run in runs] or [0.0])


def markdown(figures: Figures, machine: Mapping[str, Any], place: str, command: str) -> str:
    """A section for bench/RESULTS.md: on what it was measured, and all tables."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    others = noise(figures)
    settings = "".join(f"{name}={value} " for name, value in machine["settings"].items())
    cpu = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}"
    told = (
        f"`{settings}{command}`. {cpu}, Python {machine['python']}; {versions}. {place}. "
        f"Others took {others:.0%} of the machine meanwhile."
    )
    lines = [f"## {machine['date']}, commit {machine['commit'] or machine['headrace']}", "", told]
    for sheet in sheets(figures):
        marks = [":---" if index < sheet.left else "---:" for index in range(len(sheet.columns))]
        table = [sheet.columns, marks, *sheet.rows]
        lines += ["", f"**{sheet.title}**", "", *(f"| {' | '.join(row)} |" for row in table)]
    return "\n".join(lines) + "\n"
