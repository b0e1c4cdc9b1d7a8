"""Formats and layouts: a third of the seeds goes through all pairs of them, the others are as their dice fall."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

from consumer.encode import FormatName

if TYPE_CHECKING:
    from tests.simulation.plan import Plan

FORMATS: dict[str, dict[str, Any]] = {
    **{name: {"format": name} for name in get_args(FormatName)},
    "columns": {"format": "parquet", "parquet_columns": "payload"},
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "hours": {"object_path": "dt=%Y-%m-%d/hour=%H"},
    "flat": {"object_path": "none"},
    "field": {"object_path": "c={/c}/dt=%F", "time_field": "/at", "time_format": "unix_s"},
    "key": {"object_path": "key={key}/partition={partition}"},
    "zone": {"object_path": "%F/%H%M", "time_zone": "Asia/Kathmandu"},
}
KINDS: dict[str, dict[str, Any]] = {
    f"{name}/{layout}": {**form, **settings} for layout, settings in LAYOUTS.items() for name, form in FORMATS.items()
}
BODIES_BYTES = {"object": 10_000, "parquet": 50_000}
"""Those of the chunks under way: held, and counted, beside the budget. Records are tiny here, some bodies larger."""
OWN = ""
"""The kind of a plan as it was drawn: lines of JSON, in hours or flat."""


def kind_of(seed: int) -> str:
    if seed % 6 < 4:
        return OWN
    kinds = list(KINDS)
    return kinds[seed // 6 % len(kinds)]


def with_kind(plan: Plan, kind: str, seed: int) -> Plan:
    """The plan in this format and layout. What the operator changes, where that is planned, is one of three things."""
    if kind == OWN:
        return plan
    own = KINDS[kind]
    found = replace(plan, settings=plan.settings | own, mixed=True, most_buckets=(2, 5, 1000))
    if plan.others:
        match seed // 6 % 3:
            case 0:
                found.others = ({"object_path": "at=%Y%m%dT%H%M", "time_field": "", "time_format": "iso8601"},)
            case 1:
                other = "object" if own["format"] == "jsonl" else "jsonl"
                found.others = ({"format": other, "parquet_columns": "envelope"},)
            case _:
                # What another prefix has is not looked at: a group that is set back would archive it again.
                found.others, found.resets = ({"s3_prefix": "q"},), {"nothing": 1.0}
    return found
