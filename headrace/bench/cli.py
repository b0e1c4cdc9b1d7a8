"""The command `headrace bench`."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import re
import shlex
import signal
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import orjson

from headrace.bench.curves import CURVES
from headrace.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.bench.figures import Figures
    from headrace.bench.place import Place
    from headrace.bench.run import Wishes

PARTS: Final = ("front", "back", "together")
SCALING: Final = "scaling"
FORMATS: Final = "formats"
"""Parts that run only when they are asked for."""
CURVE_NAMES: Final = tuple(curve.name for curve in CURVES)
RESULTS: Final = "bench/RESULTS.md"
_POSITIVE: Final = click.IntRange(1)
_DURATION: Final = click.FloatRange(0, min_open=True)


class Numbers(click.ParamType[tuple[int, ...]]):
    """Whole numbers above 0 with commas between them."""

    name = "N,N,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            found = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            found = ()
        if not found or min(found) < 1:
            self.fail(f"{value!r} is not one or several whole numbers above 0, such as 1,10", param, ctx)
        return found


@click.command()
@click.option(
    "--only",
    "parts",
    multiple=True,
    type=click.Choice((*PARTS, SCALING, FORMATS)),
    help="Only this part; may be repeated.",
)
@click.option("--own-stack", is_flag=True, help="Start Kafka and S3 here for this run (package headrace[local]).")
@click.option("--yes", is_flag=True, help="Do not ask before topics and objects are made.")
@click.option("--keep", is_flag=True, help="Leave topics, groups and objects there in the end.")
@click.option("--rounds", type=_POSITIVE, help="Runs of each kind, in turn.  [default: 3; scaling alone: 1]")
@click.option("--seconds", type=_DURATION, default=8, show_default=True, help="Length of a run of the front half.")
@click.option("--warmup", type=click.FloatRange(0), default=2, show_default=True, help="Seconds before each of them.")
@click.option("--connections", type=_POSITIVE, default=64, show_default=True, help="HTTP connections.")
@click.option("--payloads", type=Numbers(), default="1,10", show_default=True, help="Payloads of a request.")
@click.option("--payload-bytes", type=click.IntRange(64), default=220, show_default=True, help="Bytes of a payload.")
@click.option("--workers", type=_POSITIVE, default=1, show_default=True, help="Processes of `headrace serve`.")
@click.option("--records", type=_POSITIVE, default=1_000_000, show_default=True, help="Records of the back half.")
@click.option("--record-bytes", type=Numbers(), default="220,1024", show_default=True, help="Sizes of a record.")
@click.option("--partitions", type=_POSITIVE, default=12, show_default=True, help="Partitions of each topic.")
@click.option("--processes", type=_POSITIVE, default=1, show_default=True, help="Processes of `headrace consume`.")
@click.option("--rate", type=_DURATION, help="Requests a second for both together (half of the front half's best).")
@click.option("--steady-seconds", type=_DURATION, default=15, show_default=True, help="Length of both together.")
@click.option("--flush-seconds", type=_DURATION, default=2, show_default=True, help="CHUNK_MAX_SECONDS meanwhile.")
@click.option("--curve", "curves", multiple=True, type=click.Choice(CURVE_NAMES), help="Only this scaling curve.")
@click.option("--quick", is_flag=True, help="Scaling: fewer points, and less of each.")
@click.option("--plots", type=click.Path(path_type=Path, file_okay=False), help="Scaling: draw the curves there (PNG).")
@click.option("--reference/--no-reference", default=True, help="Measure uvicorn and aiokafka alone beside it, too.")
@click.option(
    "--peer-go",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="HEADRACE_BENCH_PEER_GO",
    help="Folder of a Go program to build and to measure beside it (flags -addr, -brokers, -topic).",
)
@click.option("--url", help="Load this running endpoint instead of one started here; its payloads stay where they go.")
@click.option("--pid", type=_POSITIVE, help="That endpoint's process, where it runs here: its CPU time is counted.")
@click.option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="Header for that endpoint.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write every figure there (- is here).")
@click.option(
    "--record",
    type=click.Path(path_type=Path, dir_okay=False),
    is_flag=False,
    flag_value=RESULTS,
    help=f"Add the tables to this Markdown file [{RESULTS}].",
)
def bench(
    *,
    parts: tuple[str, ...],
    own_stack: bool,
    yes: bool,
    keep: bool,
    headers: tuple[str, ...],
    json_file: Path | None,
    record: Path | None,
    plots: Path | None,
    rounds: int | None,
    **amounts: Any,
) -> None:
    """Measure what requests, payloads and records cost here: CPU time, throughput, latency, memory.

    \b
    front     POSTs to `headrace serve` until Kafka has the payloads on all in-sync replicas
    back      a full topic to stored objects, by `headrace consume`
    together  both under a steady load, and the time from POST to readable in S3
    scaling   only with --only scaling: how costs grow with partitions, sizes, payloads a request, consumers and S3's
              latency; about 7 minutes
    formats   only with --only formats, and by itself: what each FORMAT costs beside the library that it rests on;
              needs neither Kafka nor S3

    It works with the Kafka and the bucket of the settings, on topics, groups and a prefix of its own whose names begin
    with headrace-bench-; it says which, asks, and removes them in the end. CPU time (utime + stime of a process and its
    children, from the system) compares on a busy machine, wall time and latency do not; ratios compare within one run.
    """  # noqa: D301 - click knows its mark only as a character
    for package in ("psutil", "matplotlib") if plots is not None else ("psutil",):
        if importlib.util.find_spec(package) is None:
            raise HeadraceError(f"This needs a package more ({package} is missing): pip install 'headrace[bench]'.")
    if FORMATS in parts:
        if set(parts) != {FORMATS} or record is not None or plots is not None:
            raise HeadraceError("--only formats goes by itself, without --record and --plots.")
        _formats(amounts["record_bytes"], rounds or 3, amounts["records"], json_file)
        return
    from headrace.bench.place import given_place, own_place
    from headrace.bench.run import Wishes, refuse_nonsense

    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what it has to say, our own errors say better
    rounds = rounds or (1 if set(parts) == {SCALING} else 3)
    wishes = Wishes(parts=frozenset(parts or PARTS), headers=dict(map(_header, headers)), rounds=rounds, **amounts)
    refuse_nonsense(wishes)
    if plots is not None and SCALING not in wishes.parts:
        raise HeadraceError("--plots draws the scaling curves: say --only scaling with it.")
    telling = Telling(json_file, record, plots)
    _say_tool(wishes)
    with own_place() if own_stack else given_place(with_s3=wishes.needs_s3) as place:
        try:
            asyncio.run(_run(wishes, place, ask=not (yes or own_stack), keep=keep, telling=telling))
        except asyncio.CancelledError:
            raise HeadraceError("Stopped by SIGTERM before it was done.") from None


def _formats(record_bytes: Sequence[int], rounds: int, most_records: int, json_file: Path | None) -> None:
    """Measure and tell: a table, and every figure where that is wished."""
    from rich.console import Console

    from headrace.bench.formats import CHUNK_RECORDS, format_line, format_sheet, measure_formats
    from headrace.bench.machine import describe
    from headrace.table import show_table, slim_table

    runs = []
    for run in measure_formats(record_bytes=record_bytes, rounds=rounds, most_records=min(most_records, CHUNK_RECORDS)):
        say(format_line(run))
        runs.append(run)
    if json_file is not None:
        content = orjson.dumps(
            {"machine": describe(), "formats": [run.as_json() for run in runs]}, option=orjson.OPT_INDENT_2
        )
        if str(json_file) == "-":
            click.echo(content)
            return
        json_file.write_bytes(content + b"\n")
    sheet = format_sheet(runs)
    table = slim_table(sheet.title, sheet.columns, left=sheet.columns[: sheet.left])
    for row in sheet.rows:
        table.add_row(*row)
    show_table(Console(soft_wrap=True), table)


@dataclass(frozen=True, slots=True)
class Telling:
    """Where results go beside the terminal: a JSON file (- is the terminal), a Markdown file, a folder for plots."""

    json_file: Path | None
    record: Path | None
    plots: Path | None


async def _run(wishes: Wishes, place: Place, *, ask: bool, keep: bool, telling: Telling) -> None:
    from headrace.bench.figures import Figures
    from headrace.bench.run import run_benchmark, what_it_makes
    from headrace.bench.workspace import Workspace

    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    workspace = Workspace(place.kafka, place.s3, partitions=wishes.partitions)
    for line in what_it_makes(wishes, place, workspace):
        say(line)
    if not place.own:
        say("All of it stays there (--keep)." if keep else "All of that is removed in the end.")
    if ask:
        click.confirm("Go on?", abort=True, err=True)
    figures, whole = Figures(), False
    try:
        await run_benchmark(wishes, place, workspace, figures, say)
        whole = True
    finally:
        if not (keep or place.own):
            for left in await workspace.clean():
                say(f"Could not be removed: {left}")
        _tell(figures, place, telling if whole else replace(telling, record=None, plots=None))


def say(line: str) -> None:
    """To standard error: standard output has the results alone."""
    click.echo(line, err=True)


def _say_tool(wishes: Wishes) -> None:
    from headrace.bench.load import Load, tool_for

    if wishes.parts & {"front", SCALING}:
        tool = tool_for(Load("", (), wishes.connections, wishes.seconds))
        hint = "" if tool == "wrk" else " (wrk on PATH would load more with less)"
        say(f"The load comes from {tool}{hint}; its CPU time counts for nobody.")


def _tell(figures: Figures, place: Place, telling: Telling) -> None:
    from rich.console import Console

    from headrace.bench.machine import describe
    from headrace.bench.report import markdown, noise, sheets
    from headrace.table import show_table, slim_table

    if not (figures.front or figures.back or figures.whole or figures.scaling):
        return
    json_file, record = telling.json_file, telling.record
    if telling.plots is not None:
        from headrace.bench.plots import draw

        for file in draw(figures.scaling, telling.plots):
            say(f"Drawn: {file}")
    machine = describe() | {"servers": place.versions}
    command = told_command(sys.argv[1:])
    if json_file is not None:
        content = orjson.dumps(
            {"machine": machine, "place": place.words, "command": command, **figures.as_json()},
            option=orjson.OPT_INDENT_2,
        )
        if str(json_file) == "-":
            click.echo(content)
            return
        json_file.write_bytes(content + b"\n")
    console = Console(soft_wrap=True)
    for sheet in sheets(figures):
        table = slim_table(sheet.title, sheet.columns, left=sheet.columns[: sheet.left])
        for row in sheet.rows:
            table.add_row(*row)
        show_table(console, table)
        console.print()
    console.print(f"Others took {noise(figures):.0%} of the machine meanwhile.")
    if record is not None:
        servers = ", ".join(place.versions.values())
        where = f"{servers} on the same machine" if servers else "Kafka and S3 elsewhere"
        append(record, markdown(figures, machine, where, command))
        console.print(f"Written to {record}.")


def told_command(arguments: Sequence[str]) -> str:
    """The command line as it may be kept: without headers' values, which may be secrets, and without folders."""
    told = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option, equals, value = argument.partition("=") if argument.startswith("--header=") else ("", "", argument)
        secret = bool(equals) or before == "--header"
        shown = re.sub(r"(^|=)/.*/", r"\1…/", argument)
        told.append(f"{option}{equals}{value.partition(':')[0]}:…" if secret else shown)
    return shlex.join(["headrace", *told])


def append(file: Path, section: str) -> None:
    """Add a section to a file's end, whole or not at all."""
    before = file.read_text("utf-8").rstrip("\n") + "\n\n" if file.exists() else ""
    with tempfile.NamedTemporaryFile("w", dir=file.absolute().parent, encoding="utf-8", delete=False) as fresh:
        fresh.write(before + section)
    Path(fresh.name).chmod(0o644)
    Path(fresh.name).replace(file)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise click.BadParameter(f"{text!r} is not NAME:VALUE", param_hint="--header")
    return name.strip(), value.strip()
