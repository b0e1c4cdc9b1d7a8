"""What was answered against what Kafka has: accepted is there once and byte for byte, refused is nowhere."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from typing import TYPE_CHECKING, Final

from tests.fuzz.cases import Fate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aiokafka.structs import ConsumerRecord

    from tests.fuzz.cases import Case, Expected
    from tests.fuzz.client import Answer

_STRING: Final = re.compile(rb'(?=("(?:[^"\\]|\\.)*"))')
"""From each quote to the next: where one was lost, nobody knows which of them begin a string."""
UNKNOWN: Final = "outcome-unknown"
PATIENCE_SECONDS: Final = 1
"""For how long the producer is told to wait for a request's head, and for its body."""


class Ledger:
    """Of one round."""

    def __init__(self) -> None:
        self._cases: list[tuple[Case, Sequence[Answer], bool]] = []
        self.accepted = 0
        self.refused = 0
        self.unanswered = 0

    def note(self, case: Case, answers: Sequence[Answer], seconds: float = 0.0) -> None:
        """`seconds`: what the client took to send it. Where that is long, a head or a body may have been too late."""
        self._cases.append((case, answers, seconds >= PATIENCE_SECONDS))

    def violations(self, records: Sequence[ConsumerRecord]) -> list[str]:
        """One sentence each."""
        found: list[str] = []
        by_mark: dict[str, list[ConsumerRecord]] = {}
        for record in records:
            mark = next((value for name, value in record.headers if name == "idempotency-key"), b"")
            by_mark.setdefault(mark.decode("latin-1"), []).append(record)
        for case, answers, is_slow in self._cases:
            for index, expected in enumerate(case.expected):
                there = by_mark.pop(expected.mark, [])
                answer = answers[index] if index < len(answers) else None
                if case.is_http:
                    wrong = _judge(expected, answer, there, is_slow=is_slow)
                    self._count(answer)
                else:
                    wrong = _judge_loosely(expected, there)
                if wrong:
                    found.append(f"case {case.number}, request {expected.mark}: {wrong}")
            if not case.is_http:
                self.accepted += sum(answer.status == 200 for answer in answers)
                self.refused += sum(answer.status != 200 for answer in answers)
        loose = [case for case, _, _ in self._cases if not case.is_http]
        streams = [*(case.stream for case in loose), *(each.source for case in loose for each in case.expected)]
        values = {value for case in loose for each in case.expected for value in each.payloads or ()}
        values |= {value for stream in streams for value in spelled(stream)}
        found += [
            f"Kafka has what nobody sent, under the mark {mark!r}: {record.value!r:.200}"
            for mark, left in by_mark.items()
            for record in left
            if record.value not in values and not any((record.value or b"") in stream for stream in streams)
        ]
        return found

    def _count(self, answer: Answer | None) -> None:
        if answer is None:
            self.unanswered += 1
        elif answer.status == 200:
            self.accepted += 1
        else:
            self.refused += 1


def spelled(stream: bytes) -> Iterator[bytes]:
    """What strings of JSON in these bytes mean, as text and as base64: so CloudEvents and REST records spell values.

    A stream that somebody has bent may spell what nobody meant, and yet be good.
    """
    for string in _STRING.findall(stream):
        try:
            text = json.loads(string).encode()
        except ValueError:  # no UTF-8, no escape, half of a surrogate pair
            continue
        yield text
        with contextlib.suppress(ValueError):
            yield base64.b64decode(text, validate=True)


def _judge(expected: Expected, answer: Answer | None, there: Sequence[ConsumerRecord], *, is_slow: bool) -> str:
    """What is wrong with a well-formed request; empty when nothing is."""
    if answer is None or answer.problem == UNKNOWN:
        return _all_or_nothing(expected, there)
    if answer.status != 200:
        if there:
            return f"answered {answer.status} ({answer.problem}), and Kafka has {len(there)} of it"
        if expected.fate is Fate.TAKEN and answer.status != 503 and not (is_slow and answer.status == 408):
            return f"it is good, and was answered {answer.status} ({answer.problem})"
        return ""
    if expected.fate is Fate.REFUSED:
        return f"it is not good, and was answered 200 with {answer.accepted}"
    if answer.accepted != len(there):
        return f"{answer.accepted} were accepted, and Kafka has {len(there)}"
    if answer.places:
        return _each_in_its_place(expected, answer, there)
    return _all_or_nothing(expected, there) if there else ""


def _each_in_its_place(expected: Expected, answer: Answer, there: Sequence[ConsumerRecord]) -> str:
    by_place = {(record.partition, record.offset): record.value for record in there}
    missing = set(answer.places) - by_place.keys()
    if missing:
        return f"it was told {missing}, where its records are not: {sorted(by_place)}"
    values = [by_place[partition, offset] for partition, offset in answer.places if offset is not None]
    if expected.payloads is not None and values != expected.payloads:
        return f"Kafka has other bytes: {values} instead of {expected.payloads}"
    return ""


def _judge_loosely(expected: Expected, there: Sequence[ConsumerRecord]) -> str:
    """Of a connection that is no HTTP, or ended: what its bytes mean is not known, but some things never are."""
    if expected.fate is Fate.REFUSED and expected.mark.endswith("hostile") and there:
        return f"a request with a body that nobody can agree about was taken: {there[0].value!r:.100}"
    values = [record.value for record in there]
    if len({(record.partition, record.offset) for record in there}) != len(values):
        return "Kafka has a record twice"
    if len({record.partition for record in there}) > 1 and not expected.is_keyed:
        return "its records are in several partitions"
    return ""


def _all_or_nothing(expected: Expected, there: Sequence[ConsumerRecord]) -> str:
    if not there:
        return ""
    if expected.is_keyed:
        found = sorted(repr(record.value) for record in there)
        whole = expected.payloads is None or found == sorted(map(repr, expected.payloads))
        return "" if whole else f"Kafka has a part of it, or other bytes: {found}"
    if {record.partition for record in there} != {there[0].partition}:
        return "its records are in several partitions"
    offsets = sorted(record.offset for record in there)
    if offsets != list(range(offsets[0], offsets[0] + len(offsets))):
        return f"its records are not together: {offsets}"
    values = [record.value for record in sorted(there, key=lambda record: int(record.offset))]
    if expected.payloads is not None and values != expected.payloads:
        wrong = next(
            (pair for pair in zip(values, expected.payloads, strict=False) if pair[0] != pair[1]),
            (len(values), len(expected.payloads)),
        )
        return f"Kafka has other bytes: {wrong!r:.300}"
    return ""
