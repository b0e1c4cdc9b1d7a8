"""Ports: free ones, and plain words about taken ones."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

import pytest

from headrace.local.ports import LOOPBACK, TWIN, PortTakenError, free_ports, holder, is_free, require_free
from headrace.local.s3 import S3

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def taken() -> Iterator[int]:
    with contextlib.closing(socket.create_server((LOOPBACK, 0))) as server:
        yield server.getsockname()[1]


def test_free_ports_are_free_apart_and_below_their_twins() -> None:
    found = free_ports(40, twins=True)
    numbers = [*found, *(port + TWIN for port in found)]
    assert len(set(numbers)) == 80
    assert max(numbers) < 65536
    assert all(is_free(port) for port in numbers)


def test_ports_that_are_spoken_for_are_not_given() -> None:
    but = frozenset(range(10_500, 22_400))
    assert not but & set(free_ports(5, but=but))


def test_a_taken_port_names_its_holder_and_the_way_out(taken: int) -> None:
    assert not is_free(taken)
    assert holder(taken).endswith(f"(pid {os.getpid()})")
    with pytest.raises(PortTakenError) as caught:
        require_free(taken, "Kafka", "choose another")
    assert str(caught.value).startswith(f"Kafka can't listen on {LOOPBACK}:{taken}: ")
    assert str(caught.value).endswith(f"(pid {os.getpid()}) has it. Stop that, or choose another.")


def test_s3_says_which_ports_it_cannot_have(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"can't use port 55536.*Choose one below 55536"):
        S3(tmp_path, port=55_536)
    assert S3(tmp_path, port=55_535).endpoint == "http://127.0.0.1:55535"


def test_s3s_ports_are_apart_from_their_twins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SeaweedFS refuses a port that another one's gRPC needs."""
    monkeypatch.setattr("headrace.local.ports._FIRST", 8_333 + TWIN - 8)
    monkeypatch.setattr("headrace.local.ports._LAST", 8_333 + TWIN + 8)
    monkeypatch.setattr("headrace.local.ports.is_free", lambda _: True)
    for _ in range(20):
        assert len(S3(tmp_path, port=8_333).ports) == 10
