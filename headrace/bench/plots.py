"""Scaling curves as PNG files, a file a curve. Only here is matplotlib imported."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from headrace.bench.curves import CURVES, Reading, line_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from headrace.bench.curves import Curve

INCHES_A_PANEL: Final = 4.4
INCHES_HIGH: Final = 5.0
DOTS_AN_INCH: Final = 120
DECADE: Final = 10.0
COLOURS: Final = {"headrace": "#0b5fa5", "Kafka": "#c8641b", "S3": "#3b8a3e"}

Line = tuple[str, "Callable[[Reading], float | None]"]
Panel = tuple[str, "Sequence[Line]"]
"""A y axis' name, and its lines."""


def panels_of(curve: Curve) -> list[Panel]:
    """What stands side by side in a curve's figure."""
    each = "record" if curve.half == "back" else "request"
    cost: Panel = (
        f"CPU-µs a {each}",
        [
            ("headrace", Reading.cpu_us),
            ("Kafka", lambda reading: reading.cpu_us("kafka")),
            ("S3", lambda reading: reading.cpu_us("s3") if curve.half == "back" else None),
        ],
    )
    a_byte: Panel = ("CPU-ns a byte of payload", [("headrace", Reading.cpu_ns_byte)])
    speed: Panel = (f"{each}s a second", [("headrace", lambda reading: reading.second)])
    memory: Panel = ("peak RSS of a process, MiB", [("headrace", lambda reading: reading.rss_mib)])
    by_bytes = curve.name.startswith("payload")
    return [cost, a_byte if by_bytes else speed, memory]


def draw(readings: Sequence[Reading], folder: Path) -> list[Path]:
    """Write `scaling-<curve>.png` for each curve that has readings, in medians over the rounds. Returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for curve in CURVES:
        if any(reading.curve == curve.name for reading in readings):
            file = folder / f"scaling-{curve.name}.png"
            _figure(curve, readings).savefig(file, dpi=DOTS_AN_INCH, metadata={"Software": None})
            drawn.append(file)
    return drawn


def _figure(curve: Curve, readings: Sequence[Reading]) -> Figure:
    panels = panels_of(curve)
    figure = Figure(figsize=(INCHES_A_PANEL * len(panels), INCHES_HIGH), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, lines) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        values: list[float] = []
        places: list[int] = []
        for label, read in lines:
            line = [(at, value) for at, value in line_of(curve, readings, (label, read, 0)) if value > 0]
            if line:
                places, ys = [at for at, _ in line], [value for _, value in line]
                axes.plot(places, ys, marker="o", linewidth=2, markersize=6, color=COLOURS[label], label=label)
                values += ys
        _scale(axes, places, values)
        axes.set_xlabel(curve.axis, fontsize=12)
        axes.set_title(name, fontsize=13)
        axes.grid(visible=True, which="major", alpha=0.35)
        if len(lines) > 1 and values:
            axes.legend(fontsize=11, frameon=False)
    figure.suptitle(f"headrace, the {curve.half} half", fontsize=13, x=0.01, ha="left", color="#555555")
    return figure


def _scale(axes: Any, places: Sequence[int], values: Sequence[float]) -> None:
    """Logarithms on both axes, with the measured places and round numbers named; a 0 gets a place before the first."""
    if not places or not values:
        return
    if min(places) > 0:
        axes.set_xscale("log")
    else:
        first = min(place for place in [*places, 1_000_000] if place > 0)
        axes.set_xscale("symlog", linthresh=first)
    axes.xaxis.set_major_locator(FixedLocator(list(places)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yscale("log")
    low, high = decades(values)
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(LogLocator(base=DECADE, subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(labelsize=11)


def decades(values: Sequence[float]) -> tuple[float, float]:
    """Bounds of an axis with room around the values, a decade at least: noise shall not look like a slope."""
    low, high = min(values) / 1.3, max(values) * 1.3
    if high / low < DECADE:
        middle = math.sqrt(low * high)
        low, high = middle / math.sqrt(DECADE), middle * math.sqrt(DECADE)
    return low, high


def short(value: float) -> str:
    """A number as short as it can be told: 0.5, 20, 5k, 2M."""
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
