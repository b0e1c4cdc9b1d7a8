"""The short form of fuzzing in every run of the tests, that its cases are the seed's, and that it can fail."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from tests.fuzz.cases import Case, Ending, Expected, Fate, case
from tests.fuzz.client import Answer, Violation, send, take_answer
from tests.fuzz.ledger import Ledger
from tests.fuzz.run import Outcome, fuzz
from tests.papers import Papers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.services import KafkaService


def test_a_seed_and_a_number_are_a_case() -> None:
    one, other = ([case(seed, number) for number in range(300)] for seed in (1, 2))
    with patch("time.time", return_value=0.0):
        again = [case(1, number) for number in range(300)]
    assert one == again
    assert one != other
    assert {made.ending for made in one} == set(Ending)
    assert {expected.fate for made in one for expected in made.expected} == set(Fate)
    assert 100 < sum(made.is_http for made in one) < 250


@pytest.mark.stack
@pytest.mark.slow
@pytest.mark.parametrize("by_tls", [False, True], ids=["http", "https"])
async def test_what_is_accepted_is_there_and_all_else_is_refused(
    kafka: KafkaService, service_env: dict[str, str], topic: Callable[..., str], tmp_path: Path, *, by_tls: bool
) -> None:
    tls = Papers(tmp_path) if by_tls else None
    outcome = await fuzz(service_env, topic("fuzz"), seed=20261123, cases=800, tls=tls)
    assert not outcome.violations, str(outcome)
    assert outcome.accepted > 300
    assert outcome.refused > 300
    assert outcome.records > 1_000
    assert len(outcome.memory) == 4  # enough of them to tell growth


@pytest.mark.parametrize(
    ("mebibytes", "grown"),
    [
        ([50, 57, 90], 0),
        ([50, 57, 90, 58], 1),
        ([50, 57, 90, 91], 33),
        ([50, 57, 58, 90, 59, 90], 2),
        ([57, 50, *range(57, 70)], 11),
        ([50, 57, 54, 53], -4),
    ],
)
def test_memory_grows_when_no_round_goes_back_to_what_the_first_had(mebibytes: list[int], grown: int) -> None:
    assert Outcome(1, memory=mebibytes).grown == grown


def record(mark: str, value: bytes, offset: int, partition: int = 0) -> Any:
    return SimpleNamespace(
        headers=[("idempotency-key", mark.encode())], value=value, offset=offset, partition=partition
    )


def judged(
    answer: Answer | None, *records: Any, fate: Fate = Fate.TAKEN, is_http: bool = True, seconds: float = 0.0
) -> list[str]:
    made = Case(0, b"one", [Expected("0.0", fate, [b"1", b"2"])], is_http)
    ledger = Ledger()
    ledger.note(made, [] if answer is None else [answer], seconds)
    return ledger.violations(records)


ACCEPTED = Answer(200, 2, closes=False, problem="")
REFUSED = Answer(400, None, closes=False, problem="not-json")
LATE = Answer(408, None, closes=True, problem="head-timeout")
UNKNOWN = Answer(503, None, closes=False, problem="outcome-unknown")
GOOD = (record("0.0", b"1", 5), record("0.0", b"2", 6))


def test_the_ledger_is_content_with_what_is_right() -> None:
    for answer, records in ((ACCEPTED, GOOD), (UNKNOWN, GOOD), (UNKNOWN, ()), (None, GOOD), (None, ())):
        assert judged(answer, *records) == []
    assert judged(REFUSED, fate=Fate.REFUSED) == []
    assert judged(Answer(503, None, closes=False, problem="queue-full")) == []
    assert judged(LATE, seconds=1.5) == []


@pytest.mark.parametrize(
    ("answer", "records", "fate"),
    [
        (ACCEPTED, (), Fate.TAKEN),
        (ACCEPTED, GOOD[:1], Fate.TAKEN),
        (ACCEPTED, (GOOD[0], record("0.0", b"2 ", 6)), Fate.TAKEN),
        (ACCEPTED, (GOOD[0], record("0.0", b"2", 7)), Fate.TAKEN),
        (ACCEPTED, (GOOD[0], record("0.0", b"2", 6, partition=1)), Fate.TAKEN),
        (ACCEPTED, GOOD, Fate.REFUSED),
        (REFUSED, (), Fate.TAKEN),
        (LATE, (), Fate.TAKEN),
        (REFUSED, GOOD, Fate.REFUSED),
        (UNKNOWN, GOOD[:1], Fate.TAKEN),
        (None, (*GOOD, *GOOD), Fate.TAKEN),
        (ACCEPTED, (*GOOD, record("9.9", b"x", 9)), Fate.TAKEN),
    ],
)
def test_the_ledger_sees_what_is_wrong(answer: Answer | None, records: tuple[Any, ...], fate: Fate) -> None:
    assert judged(answer, *records, fate=fate)


async def test_a_handshake_counts_as_the_servers_clock_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    connect = asyncio.open_connection

    async def slowly(host: str, port: int, **options: Any) -> Any:
        nonlocal now
        now += 5
        return await connect(host, port, **options)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(3)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\nconnection: close\r\n\r\n" + b'{"accepted":2}')
        writer.close()

    monkeypatch.setattr("tests.fuzz.client.time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(asyncio, "open_connection", slowly)
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        _, seconds = await send("127.0.0.1", port, Case(0, b"one", [Expected("0.0", Fate.TAKEN, [b"1", b"2"])], True))
    assert seconds == 5


def test_what_a_bent_stream_spells_may_be_there_and_nothing_else() -> None:
    """A letter twice, in a string of JSON and in the header's name that would have told whose it is."""
    stream = b'idempotencncy-key: 0.0\r\n\r\n"{"data":"ttext \\u00e9","data_base64":"AP8="}'
    for value, wrong in ((b"ttext \xc3\xa9", 0), (b"\x00\xff", 0), (b"text \xc3\xa8", 1), (b"\x00\xfe", 1)):
        ledger = Ledger()
        ledger.note(Case(0, stream, [], is_http=False), [])
        assert len(ledger.violations([record("", value, 5)])) == wrong


def test_answers_are_read_strictly() -> None:
    body = b'{"accepted":2}'
    whole = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 14\r\nconnection: close\r\n\r\n" + body
    assert take_answer(whole + b"HTTP") == (Answer(200, 2, closes=True, problem=""), b"HTTP")
    for length in range(len(whole)):
        assert take_answer(whole[:length])[0] is None
    for wrong in (
        b"Invalid HTTP request received.",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 400 No\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 400 No\r\ncontent-length: 2\r\n\r\nno",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    ):
        with pytest.raises(Violation):
            take_answer(wrong)
