"""What the benchmark sends is valid, exactly as long as asked for, and the same each time."""

from __future__ import annotations

import json

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from headrace.bench.back import DIFFERENT
from headrace.bench.payloads import SMALLEST, find_marks, make_bodies, make_payloads, marked_payload


@given(size=st.integers(SMALLEST, 3000), seed=st.integers(0, 100))
def test_payloads_are_json_of_exactly_that_size(size: int, seed: int) -> None:
    for payload in make_payloads(5, size, seed):
        assert len(payload) == size
        assert isinstance(json.loads(payload), dict)


def test_payloads_are_the_same_in_every_run_and_differ_among_each_other() -> None:
    payloads = make_payloads(1000, 220)
    assert payloads == make_payloads(1000, 220)
    assert len(set(payloads)) == 1000


@pytest.mark.parametrize("partitions", [1, 3, 12, 100])
def test_a_chunk_of_one_partition_packs_no_better_than_events_do(partitions: int) -> None:
    payloads = make_payloads(DIFFERENT, 220)
    lines = b"\n".join([payloads[index * partitions % len(payloads)] for index in range(100_000)])
    assert 0.15 < len(zstandard.compress(lines, 3)) / len(lines) < 0.4


def test_too_small_is_said() -> None:
    with pytest.raises(ValueError, match="at least 64 bytes"):
        make_payloads(1, SMALLEST - 1)


@given(a_request=st.integers(1, 20), count=st.integers(1, 20), known=st.integers(1, 50))
def test_bodies_hold_so_many_payloads_verbatim_and_use_all(a_request: int, count: int, known: int) -> None:
    payloads = make_payloads(known, 100)
    bodies = make_bodies(payloads, a_request, count)
    sent = [payload for body in bodies for payload in json.loads(body)["data"]]
    assert len(bodies) == count
    assert sent == [json.loads(payloads[index % known]) for index in range(a_request * count)]


def test_marks_are_found_among_other_lines_and_only_those_of_this_run() -> None:
    lines = [b'{"offset":1,"value":%b}' % marked_payload("run-1", number, 220) for number in (3, 77, 12_345_678)]
    lines += [b'{"offset":2,"value":%b}' % marked_payload("run-12", 5, 220), *make_payloads(10, 220)]
    assert find_marks("run-1", b"\n".join(lines)) == {3, 77, 12_345_678}
    assert len(marked_payload("run-1", 3, 220)) == 220
    assert json.loads(marked_payload("run-1", 3, 220))
