"""The front's OpenAPI 3.1 document: made from what is served, and from the table of problems. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from headrace import __version__
from producer.errors import MEDIA_TYPE, PROBLEM_PREFIX, Kind

if TYPE_CHECKING:
    from collections.abc import Collection

    Json = dict[str, Any]

_ANY: Final[dict[str, Any]] = {}
_BYTES: Final = {"type": "string", "contentEncoding": "binary", "minLength": 1}
_NO_CONTROL: Final = "^[^\\x00-\\x1f\\x7f-\\x9f]+$"
_BASE64: Final = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)?$"
_PUBLISHING: Final = [kind for kind in Kind if kind not in {Kind.NOT_FOUND, Kind.METHOD_NOT_ALLOWED}]
_MEMBERS: Final = {
    "index": {"type": "integer", "minimum": 0, "description": "Which payload, counted from 0."},
    "byte": {"type": "integer", "minimum": 0, "description": "Where in the body."},
    "line": {"type": "integer", "minimum": 1, "description": "Which line of the body, counted from 1."},
    "limit": {"type": "integer", "minimum": 0, "description": "What the limit is."},
    "retry_after": {"type": "integer", "minimum": 1, "description": "Seconds to wait, as in Retry-After."},
}


def document(paths: Collection[str]) -> Json:
    """What is known of these paths (`POST` alone), and of health and metrics, which are always there."""
    there = {path: item for path, item in _posts().items() if path in paths}
    unknown = set(paths) - set(there)
    assert not unknown, f"/openapi.json does not tell of {sorted(unknown)}"
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "headrace",
            "version": __version__,
            "description": "Payloads by HTTP, durable in Kafka when they are answered with 200. A request is atomic: "
            "all of its payloads are in Kafka, or none is. What isn't 200 is told as problem+json (RFC 9457).",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"bearer": []}, {"basic": []}, {"github": []}, {"stripe": []}],
        "paths": {**there, **_management()},
        "components": {"schemas": _schemas(), "securitySchemes": _security(), "responses": _problems()},
    }


def _posts() -> dict[str, Json]:
    base64 = {"type": ["string", "null"], "contentEncoding": "base64", "pattern": _BASE64}
    collection = _content(*_JSON_LIKE, schema={"$ref": "#/components/schemas/Collection"})
    lines = _content("application/x-ndjson", schema={"type": "string", "description": "One JSON value a line."})
    accepted = _answer("All payloads are durable.", {"$ref": "#/components/schemas/Accepted"})
    events = {
        **_content("application/cloudevents+json", schema={"$ref": "#/components/schemas/CloudEvent"}),
        **_content(
            "application/cloudevents-batch+json",
            schema={"type": "array", "items": {"$ref": "#/components/schemas/CloudEvent"}},
        ),
        **_content("application/json", schema=_ANY),
        **_content("application/octet-stream", "text/plain", schema=_BYTES),
    }
    rest, rest_of_partition = (
        {
            **_content("application/vnd.kafka.json.v2+json", schema=_rest_records(_ANY, **more)),
            **_content("application/vnd.kafka.binary.v2+json", schema=_rest_records(base64, **more)),
        }
        for more in ({"partition": {"type": ["integer", "null"], "minimum": 0}}, {})
    )
    offsets = _answer("All records are durable, and where.", {"$ref": "#/components/schemas/Offsets"}, *_PROXY_TYPES)
    topic = {
        "name": "topic",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": "^[a-zA-Z0-9._-]{1,249}$"},
    }
    partition = {
        "name": "partition",
        "in": "path",
        "required": True,
        "schema": {"type": "integer", "minimum": 0},
    }
    return {
        "/payloads": _post("Publish a collection of payloads, or one a line", {**collection, **lines}, accepted),
        "/events": _post("Publish one record, any JSON or bytes, or CloudEvents", events, accepted),
        "/topics/{topic}": {
            "parameters": [topic],
            **_post("Publish records, as Kafka's REST proxy takes them (v2)", rest, offsets, problems="ProxyProblem"),
        },
        "/topics/{topic}/partitions/{partition}": {
            "parameters": [topic, partition],
            **_post("Publish records to one partition", rest_of_partition, offsets, problems="ProxyProblem"),
        },
    }


_PROXY_TYPES: Final = ("application/vnd.kafka.v2+json", "application/vnd.kafka+json", "application/json")
_JSON_LIKE: Final = ("application/json", "text/plain")
"""More are taken (docs/HTTP.md), whatever they say of themselves: it is JSON."""


def _post(summary: str, body: Json, success: Json, *, problems: str = "Problem") -> Json:
    key = {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "Goes along with each record as a header of it.",
        "schema": {"type": "string", "maxLength": 255},
    }
    responses: Json = {"200": success}
    for status in sorted({kind.status for kind in _PUBLISHING}):
        responses[str(status)] = {"$ref": f"#/components/responses/{problems}{status}"}
    return {
        "post": {
            "summary": summary,
            "parameters": [key],
            "requestBody": {"required": True, "content": body},
            "responses": responses,
        }
    }


def _management() -> dict[str, Json]:
    def get(summary: str, *answers: tuple[str, Json]) -> Json:
        return {"get": {"summary": summary, "security": [], "responses": dict(answers)}}

    health = {"$ref": "#/components/schemas/Health"}
    text = {"type": "string"}
    return {
        "/healthz": get(
            "Is the process alive?",
            (
                "200",
                _answer("It is.", {"type": "object", "required": ["alive"], "properties": {"alive": {"const": True}}}),
            ),
        ),
        "/readyz": get(
            "Can it publish, and stays it?",
            ("200", _answer("It can.", health)),
            ("503", _answer("Not now, and why.", health)),
        ),
        "/metrics": get(
            "What was counted, for Prometheus", ("200", _answer("The metrics.", text, "text/plain; version=0.0.4"))
        ),
        "/openapi.json": get("This document", ("200", _answer("The document.", {"type": "object"}))),
        "/docs": get("This document as a page", ("200", _answer("The page.", text, "text/html; charset=utf-8"))),
    }


def _content(*types: str, schema: Json) -> Json:
    return {name: {"schema": schema} for name in types}


def _answer(description: str, schema: Json, *content_types: str) -> Json:
    return {"description": description, "content": _content(*(content_types or ("application/json",)), schema=schema)}


def _rest_records(value: Json, **more: Json) -> Json:
    record = {"type": "object", "properties": {"key": value, "value": value, **more}}
    return {
        "type": "object",
        "required": ["records"],
        "properties": {"records": {"type": "array", "items": record, "minItems": 1}},
    }


def _schemas() -> Json:
    offset = {
        "type": "object",
        "required": ["partition", "offset"],
        "properties": {
            "partition": {"type": ["integer", "null"]},
            "offset": {"type": ["integer", "null"]},
            "error_code": {"type": ["integer", "null"]},
            "error": {"type": ["string", "null"]},
        },
    }
    word = {"type": "string", "pattern": _NO_CONTROL}
    known = {"type": ["string", "null"], "pattern": _NO_CONTROL}
    attribute = {**word, "type": ["string", "integer", "boolean", "null"], "pattern": _NO_CONTROL.replace("+", "*")}
    return {
        "Collection": {
            "type": "object",
            "required": ["data"],
            "properties": {
                "version": {"description": "Not looked at."},
                "token": {"description": "Says who sends, where tokens are asked for and no header shows one."},
                "data": {"type": "array", "items": _ANY, "description": "The payloads: any JSON, kept byte for byte."},
            },
        },
        "CloudEvent": {
            "type": "object",
            "required": ["specversion", "id", "source", "type"],
            "properties": {
                "specversion": {"const": "1.0"},
                "id": word,
                "source": word,
                "type": word,
                **dict.fromkeys(("datacontenttype", "dataschema", "subject", "time"), known),
                "data": {},
                "data_base64": {"type": ["string", "null"], "contentEncoding": "base64", "pattern": _BASE64},
            },
            "not": {"required": ["data", "data_base64"], "properties": {"data_base64": {"type": "string"}}},
            "propertyNames": {"pattern": "^[a-z0-9]{1,100}$|^data_base64$"},
            "additionalProperties": attribute,
        },
        "Accepted": {
            "type": "object",
            "required": ["accepted"],
            "properties": {"accepted": {"type": "integer", "minimum": 0}},
        },
        "Offsets": {
            "type": "object",
            "required": ["offsets"],
            "properties": {"offsets": {"type": "array", "items": offset}},
        },
        "Health": {
            "type": "object",
            "required": ["ready", "problems"],
            "properties": {
                "ready": {"type": "boolean"},
                "problems": {"type": "object", "additionalProperties": {"type": "string"}},
            },
        },
        "ProxyError": {
            "type": "object",
            "required": ["error_code", "message"],
            "properties": {"error_code": {"type": "integer"}, "message": {"type": "string"}},
        },
        "Problem": {
            "type": "object",
            "required": ["type", "title", "status", "detail"],
            "properties": {
                "type": {"enum": [PROBLEM_PREFIX + kind.value.name for kind in Kind]},
                "title": {"type": "string"},
                "status": {"type": "integer"},
                "detail": {"type": "string"},
                **_MEMBERS,
            },
        },
    }


def _problems() -> Json:
    """A response for each status that a problem has."""
    found: Json = {}
    for status in sorted({kind.status for kind in Kind}):
        kinds = [kind for kind in Kind if kind.status == status]
        told = "; ".join(f"{kind.value.name}: {kind.value.title}" for kind in kinds)
        response = _answer(told, {"$ref": "#/components/schemas/Problem"}, MEDIA_TYPE.decode())
        if any(kind.value.retry_after is not None for kind in kinds):
            response["headers"] = {
                "Retry-After": {"required": True, "schema": {"type": "integer"}, "description": "Seconds to wait."}
            }
        found[f"Problem{status}"] = response
        proxys = _content(_PROXY_TYPES[0], schema={"$ref": "#/components/schemas/ProxyError"})
        found[f"ProxyProblem{status}"] = {**response, "content": {**proxys, **response["content"]}}
    return found


def _security() -> Json:
    return {
        "bearer": {"type": "http", "scheme": "bearer", "description": "A token of HTTP_TOKENS."},
        "basic": {"type": "http", "scheme": "basic", "description": "The same as a password, with any user name."},
        "github": {"type": "apiKey", "in": "header", "name": "X-Hub-Signature-256", "description": "As GitHub signs."},
        "stripe": {"type": "apiKey", "in": "header", "name": "Stripe-Signature", "description": "As Stripe signs."},
    }
