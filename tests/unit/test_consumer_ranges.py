"""--since and --until: offsets, times and edges become ranges within each partition's log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

import pytest
from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from consumer.ranges import replay_group, resolve
from headrace.errors import SettingsError
from headrace.kafka import EARLIEST, LATEST
from headrace.points import milliseconds, parse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from headrace.kafka import KafkaCluster


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("earliest", "earliest"),
        ("latest", "latest"),
        ("1500", 1500),
        ("2026-11-22", datetime(2026, 11, 22, tzinfo=UTC)),
        ("2026-11-22T01:30:00+01:00", datetime(2026, 11, 22, 0, 30, tzinfo=UTC)),
        ("2026-11-22T01:30:00Z", datetime(2026, 11, 22, 1, 30, tzinfo=UTC)),
    ],
)
def test_points(text: str, expected: object) -> None:
    assert parse(text, "--since") == expected


@pytest.mark.parametrize("text", ["", "yesterday", "-5", "1.5", "2026-13-01"])
def test_what_is_no_point_is_told(text: str) -> None:
    with pytest.raises(SettingsError, match=r"--until '.*' is neither an offset"):
        parse(text, "--until")


@given(st.integers(0, 4_000_000_000_000))
def test_times_are_exact(number: int) -> None:
    assert milliseconds(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=number)) == number


A, B = TopicPartition("t", 0), TopicPartition("t", 1)


class Logs:
    """Two logs: 10 to 100 with a record each second, and an empty one at 7."""

    async def log_offsets(self, partitions: Iterable[TopicPartition], timestamp_ms: int) -> dict[TopicPartition, int]:
        if timestamp_ms == EARLIEST:
            return {A: 10, B: 7}
        if timestamp_ms == LATEST:
            return {A: 100, B: 7}
        first = max(10, -(-timestamp_ms // 1000))
        return {A: first} if first < 100 else {}


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        ("earliest", "latest", {A: (10, 100), B: (7, 7)}),
        ("0", "50", {A: (10, 50), B: (7, 7)}),
        ("50", "1000", {A: (50, 100), B: (7, 7)}),
        ("60", "50", {A: (60, 60), B: (7, 7)}),
        ("1970-01-01T00:00:20", "1970-01-01T00:00:30.001", {A: (20, 31), B: (7, 7)}),
        ("1970-01-01T00:00:20", "1970-01-01T01:00:00", {A: (20, 100), B: (7, 7)}),
        ("latest", "earliest", {A: (100, 100), B: (7, 7)}),
    ],
)
async def test_ranges_lie_within_the_log(
    since: str, until: str, expected: dict[TopicPartition, tuple[int, int]]
) -> None:
    assert await resolve(cast("KafkaCluster", Logs()), [A, B], since, until) == expected


def test_a_replay_has_one_group_for_one_place() -> None:
    assert replay_group("t", "b", "p") == replay_group("t", "b", "p") == "headrace-replay-t-741f9003"
    assert (
        len({replay_group(*place) for place in (("t", "b", "p"), ("u", "b", "p"), ("t", "c", "p"), ("t", "b", "q"))})
        == 4
    )
