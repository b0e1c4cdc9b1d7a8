"""POST /topics/{topic} and /topics/{topic}/partitions/{partition}: the Kafka REST proxy's v2 produce call."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import orjson

from producer.endpoint import Endpoint, headers_of
from producer.errors import Answer, Kind, Problem, answer
from producer.keys import Tagging
from producer.produce_requests import ANSWER_TYPE, answer_type, embedded_format, split_records

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.types import Receive, Scope

    from producer.bodies import Bodies
    from producer.endpoint import Admit
    from producer.intake import Intake
    from producer.records import Place
    from producer.settings import ProducerSettings

logger = logging.getLogger(__name__)

TOPIC_PATHS: Final = ("/topics/{topic}", "/topics/{topic}/partitions/{partition}")
_CODES: Final = {
    Kind.NO_TOPIC: 40401,
    Kind.NO_PARTITION: 40402,
    Kind.NO_CREDENTIALS: 40101,
    Kind.BAD_CREDENTIALS: 40101,
    Kind.FORBIDDEN: 40301,
    Kind.OUTCOME_UNKNOWN: 50002,
    Kind.KAFKA_AWAY: 50003,
}
"""The proxy's error codes where they are not the status: 50003 is "retriable", 50002 any other trouble with Kafka."""


class RestProxy(Endpoint):
    """Publishes to topics on the allow-list, and tells each record's partition and offset.

    All records of a request are in Kafka, or the answer is an error: there never is a failure inside a 200.
    """

    def __init__(
        self,
        settings: ProducerSettings,
        intakes: Mapping[str, Intake],
        bodies: Bodies | None = None,
        admit: Admit | None = None,
    ) -> None:
        super().__init__(settings, intakes[settings.kafka_topic], bodies, admit)
        self._intakes = intakes
        self._tagging = Tagging(settings)

    def _refusal(self, problem: Problem) -> Answer:
        return proxy_answer(problem)

    async def _take(self, scope: Scope, receive: Receive) -> Answer | None:
        topic: str = scope["path_params"]["topic"]
        headers = headers_of(scope)
        caller = None
        if self._admit is not None:
            caller = self._admit(scope, headers)
            caller.check_topic(topic)
        intake = self._intakes.get(topic)
        if intake is None:
            raise Problem(Kind.NO_TOPIC, f"Topic {topic[:249]} is not taken here (KAFKA_TOPICS_ALLOWED).")
        partition = _partition(topic, scope["path_params"].get("partition"))
        embedded = embedded_format(headers.get(b"content-type", b""))
        type_ = answer_type(headers.get(b"accept", b""))
        tags = self._tagging.tags(scope, headers)
        body = await self.bodies.read(receive, headers, caller)
        if body is None:
            return None
        try:
            if caller is not None:
                caller.check_token(b"")  # these bodies have no place for one
            publication = intake.submit_records(split_records(body, embedded, tags, partition), len(body))
        except BaseException:
            self._intake.release(len(body))
            raise
        del body  # the intake has it; while Kafka is awaited memory holds it once
        await publication.outcome
        return offsets_answer(publication.places(), type_)


def _partition(topic: str, number: str | None) -> int | None:
    if number is None:
        return None
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        raise Problem(Kind.NO_PARTITION, f"Topic {topic} has no partition {number[:20]!r}: partitions are numbers.")
    return int(number)


def offsets_answer(places: Sequence[Place], type_: bytes) -> Answer:
    """The answer to a request whose records are there."""
    offsets = b",".join(
        [
            b'{"partition":%d,"offset":%s,"error_code":null,"error":null}'
            % (partition, b"null" if offset is None else b"%d" % offset)
            for partition, offset in places
        ]
    )
    return _json(200, b'{"offsets":[' + offsets + b'],"key_schema_id":null,"value_schema_id":null}', type_)


def proxy_answer(problem: Problem) -> Answer:
    """A problem, as the proxy tells it."""
    status, headers, _ = answer(problem)
    code = _CODES.get(problem.kind, status)
    body = orjson.dumps({"error_code": code, "message": f"{problem.kind.value.title}. {problem.detail}"})
    kept = [(name, value) for name, value in headers if name not in {b"content-type", b"content-length"}]
    plain = _json(status, body, ANSWER_TYPE)
    return Answer(status, plain.headers + kept, body)


def _json(status: int, body: bytes, type_: bytes) -> Answer:
    return Answer(status, [(b"content-type", type_), (b"content-length", b"%d" % len(body))], body)
