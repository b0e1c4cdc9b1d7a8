"""HTTP load: by wrk where it is on PATH, else, and wherever a rate is asked for, by our own generator."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from headrace.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GRACE_SECONDS: Final = 30.0
"""A generator that is not back so long after its time is ended."""
CONTENT_TYPE: Final = "application/json"

# wrk's own numbers are for people; this prints them exactly. A request a call, in turn, made once at the start.
_SCRIPT: Final = """\
local bodies = { %s }
local requests, turn = {}, 0
wrk.method = "POST"
%s
function init(args)
  for number, body in ipairs(bodies) do requests[number] = wrk.format(nil, nil, nil, body) end
end
function request()
  turn = turn %% #requests + 1
  return requests[turn]
end
function done(summary, latency, all)
  local e = summary.errors
  io.write(string.format('\\n{"seconds":%%.6f,"requests":%%d,"failures":%%d,"errors":%%d,"p50_ms":%%.3f,' ..
    '"p99_ms":%%.3f,"p999_ms":%%.3f,"max_ms":%%.3f}\\n', summary.duration / 1e6, summary.requests, e.status,
    e.connect + e.read + e.write + e.timeout, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    latency:percentile(99.9) / 1e3, latency.max / 1e3))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of an endpoint. `rate`: requests a second, whatever the answers; None: as many as it takes."""

    url: str
    bodies: Sequence[bytes]
    connections: int
    seconds: float
    rate: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answers:
    """What became of it. `failures` are answers other than 2xx, `errors` requests without an answer.

    Latencies in milliseconds; with a rate they count from when a request was due, so that no stall can hide.
    """

    tool: str
    seconds: float
    requests: int
    failures: int
    errors: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


def tool_for(load: Load) -> str:
    """Which generator it takes."""
    return "wrk" if load.rate is None and shutil.which("wrk") is not None else "own generator"


async def run_load(load: Load) -> Answers:
    """Load until the time is over. The generator is a process of its own, gone when this returns."""
    if tool_for(load) == "own generator":
        task = json.dumps(
            {
                "url": load.url,
                "bodies": [base64.b64encode(body).decode() for body in load.bodies],
                "connections": load.connections,
                "seconds": load.seconds,
                "rate": load.rate,
                "headers": {"Content-Type": CONTENT_TYPE, **load.headers},
            }
        )
        command = [sys.executable, "-m", "headrace.bench.generator"]
        return Answers("own generator", **await _run(command, task.encode(), load.seconds))
    with tempfile.NamedTemporaryFile("w", suffix=".lua", encoding="utf-8") as script:
        script.write(wrk_script(load))
        script.flush()
        options = ["-t1", f"-c{load.connections}", f"-d{max(1, round(load.seconds))}s", "--timeout", "20s"]
        return Answers("wrk", **await _run(["wrk", *options, "-s", script.name, load.url], b"", load.seconds))


def wrk_script(load: Load) -> str:
    """The Lua script that wrk runs."""
    headers = {"Content-Type": CONTENT_TYPE, **load.headers}
    lines = [f"wrk.headers[ {_quoted(name)} ] = {_quoted(value)}" for name, value in headers.items()]
    return _SCRIPT % (",\n".join(_quoted(body.decode()) for body in load.bodies), "\n".join(lines))


def _quoted(text: str) -> str:
    """A Lua string, whatever is in it."""
    level = ""
    while f"]{level}]" in text or text.endswith(f"]{level}"):
        level += "="
    return f"[{level}[{text}]{level}]"


async def _run(command: Sequence[str], task: bytes, seconds: float) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(seconds + GRACE_SECONDS):
            output, complaint = await process.communicate(task)
    except TimeoutError:
        raise HeadraceError(f"The load generator {Path(command[0]).name} did not end in time.") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = [line for line in output.splitlines() if line.startswith(b"{")]
    if process.returncode != 0 or not lines:
        said = (complaint + output).decode(errors="replace").strip()[-500:]
        raise HeadraceError(f"The load generator {Path(command[0]).name} failed: {said}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found
