"""Every answer that isn't 200, in one table. The bodies are problem+json (RFC 9457)."""

from __future__ import annotations

from enum import Enum
from typing import Any, Final, NamedTuple

import orjson

MEDIA_TYPE: Final = b"application/problem+json"
PROBLEM_PREFIX: Final = "urn:headrace:problem:"


class Row(NamedTuple):
    status: int
    name: str
    title: str
    retry_after: int | None = None


class Kind(Enum):
    """What may go wrong, as the caller sees it. 429s and 503s tell in seconds when to try again."""

    NOT_JSON = Row(400, "not-json", "The body is not JSON")
    NOT_A_COLLECTION = Row(400, "not-a-collection", "The body holds no collection of payloads")
    BAD_REQUEST = Row(400, "bad-request", "This is no HTTP request")
    BAD_EVENT = Row(400, "bad-event", "The body is no CloudEvent")
    EMPTY_BODY = Row(400, "empty-body", "The body is empty")
    BAD_HEADER = Row(400, "bad-header", "A header can't be used")
    BAD_KEY = Row(400, "bad-key", "What should be a record's key can't be one")
    BAD_ENCODING = Row(400, "bad-encoding", "The body is not packed as Content-Encoding says")
    NO_CREDENTIALS = Row(401, "no-credentials", "Nothing says who asks")
    BAD_CREDENTIALS = Row(401, "bad-credentials", "What says who asks is not right")
    FORBIDDEN = Row(403, "forbidden", "This caller may not")
    NOT_FOUND = Row(404, "not-found", "There is nothing here")
    NO_TOPIC = Row(404, "no-topic", "This topic is not taken here")
    NO_PARTITION = Row(404, "no-partition", "The topic has no such partition")
    METHOD_NOT_ALLOWED = Row(405, "method-not-allowed", "This method is not taken here")
    NOT_ACCEPTABLE = Row(406, "not-acceptable", "No answer would be accepted")
    HEAD_TIMEOUT = Row(408, "head-timeout", "The request's head took too long to come")
    BODY_TIMEOUT = Row(408, "body-timeout", "The body took too long to come")
    TOO_LONG = Row(413, "too-long", "The request is too long")
    UNSUPPORTED = Row(415, "unsupported", "The body's form is not known here")
    BAD_RECORD = Row(422, "bad-record", "A record can't be taken")
    KEYS_APART = Row(422, "keys-apart", "The payloads' keys belong to several partitions")
    TOO_MANY = Row(429, "too-many", "More than one caller may send", 1)
    HEAD_TOO_LONG = Row(431, "head-too-long", "The request's head is too long")
    INTERNAL = Row(500, "internal", "Something went wrong here")
    QUEUE_FULL = Row(503, "queue-full", "Too much is waiting for Kafka", 1)
    KAFKA_AWAY = Row(503, "kafka-away", "Kafka can't be published to now", 2)
    BUSY = Row(503, "busy", "Too many requests at a time", 1)
    CROWDED = Row(503, "crowded", "Too many connections", 1)
    LEAVING = Row(503, "leaving", "headrace is leaving", 1)
    OUTCOME_UNKNOWN = Row(503, "outcome-unknown", "Kafka did not acknowledge in time", 2)

    @property
    def status(self) -> int:
        return self.value.status


_CHALLENGES: Final = {
    Kind.NO_CREDENTIALS: b'Bearer realm="headrace"',
    Kind.BAD_CREDENTIALS: b'Bearer realm="headrace", error="invalid_token"',
}
_LAST: Final = {Kind.BAD_REQUEST, Kind.HEAD_TOO_LONG, Kind.HEAD_TIMEOUT, Kind.BODY_TIMEOUT, Kind.CROWDED, Kind.LEAVING}
"""Answers that end their connection."""


class Problem(Exception):
    """A request that is not answered with 200: nothing of it is in Kafka, unless its kind is OUTCOME_UNKNOWN.

    `members` stand beside the detail in the body: `index` of the bad payload, counted from 0, `byte`, `limit`, …
    """

    def __init__(self, kind: Kind, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.members = members


class Answer(NamedTuple):
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def answer(problem: Problem) -> Answer:
    """The response that tells a problem."""
    status, name, title, retry_after = problem.kind.value
    retry_after = problem.members.get("retry_after", retry_after)
    body = orjson.dumps(
        {
            "type": PROBLEM_PREFIX + name,
            "title": title,
            "status": status,
            "detail": problem.detail,
            **problem.members,
        }
    )
    headers = [(b"content-type", MEDIA_TYPE), (b"content-length", b"%d" % len(body))]
    if retry_after is not None:
        headers.append((b"retry-after", b"%d" % retry_after))
    if (challenge := _CHALLENGES.get(problem.kind)) is not None:
        headers.append((b"www-authenticate", challenge))
    if "allow" in problem.members:
        headers.append((b"allow", problem.members["allow"].encode("latin-1")))
    if "accept_encoding" in problem.members:
        headers.append((b"accept-encoding", problem.members["accept_encoding"].encode()))
    if problem.kind in _LAST:
        headers.append((b"connection", b"close"))  # what is still to come of the body must not be taken for a request
    return Answer(status, headers, body)
