"""/openapi.json and /docs: what there is, for machines and as a page that needs nothing from anywhere else."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from typing import TYPE_CHECKING, Any, Final

import orjson
from starlette.responses import Response
from starlette.routing import Route

from producer.openapi import document

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.requests import Request

_STYLE: Final = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
code,pre{font:14px/1.4 ui-monospace,monospace;background:#f3f3f3;border-radius:4px;padding:.1em .3em}
pre{padding:.6rem;overflow-x:auto}h2 code{font-size:1.2rem}
table{border-collapse:collapse;width:100%;table-layout:fixed}td:first-child{width:16rem;overflow-wrap:anywhere}
td,th{border-bottom:1px solid #ddd;padding:.3rem .5rem;text-align:left;vertical-align:top}
h2{margin-top:2.5rem}summary{cursor:pointer}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}code,pre{background:#2a2a2a}td,th{border-color:#444}}
"""
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def reference_routes(paths: Collection[str]) -> list[Route]:
    """Both for these paths; made when somebody asks."""

    async def openapi(_: Request) -> Response:
        return Response(orjson.dumps(document(paths)), media_type="application/json")

    async def docs(_: Request) -> Response:
        headers = {
            "content-security-policy": POLICY,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
        }
        return Response(page(document(paths)), headers=headers, media_type="text/html")

    return [Route("/openapi.json", openapi), Route("/docs", docs)]


def page(told: dict[str, Any]) -> str:
    """The document as HTML, without scripts."""
    info = told["info"]
    parts = [
        _operation(told, method, path, operation)
        for path, item in told["paths"].items()
        for method, operation in item.items()
        if method in {"post", "get"}
    ]
    schemas = "".join(
        f"<details><summary><code>{escape(name)}</code></summary>{_pretty(schema)}</details>"
        for name, schema in told["components"]["schemas"].items()
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info['description'])}</p>"
        f'<p>For machines: <a href="openapi.json">openapi.json</a></p>{"".join(parts)}'
        f"<h2>Schemas</h2>{schemas}</body></html>"
    )


def _operation(told: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> str:
    body = operation.get("requestBody", {}).get("content", {})
    forms = "".join(f"<tr><td><code>{escape(name)}</code></td><td>{_schema(of)}</td></tr>" for name, of in body.items())
    answers = "".join(
        f"<tr><td>{escape(status)}</td><td>{escape(_resolved(told, response)['description'])}</td></tr>"
        for status, response in operation["responses"].items()
    )
    return (
        f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['summary'])}</p>"
        + (f"<h3>Body</h3><table>{forms}</table>" if forms else "")
        + f"<h3>Answers</h3><table>{answers}</table>"
    )


def _resolved(told: dict[str, Any], thing: dict[str, Any]) -> dict[str, Any]:
    for name in thing.get("$ref", "").split("/")[1:]:
        told = told[name]
    return told if "$ref" in thing else thing


def _schema(content: dict[str, Any]) -> str:
    schema = content["schema"]
    return f"<code>{escape(schema['$ref'].rpartition('/')[2])}</code>" if "$ref" in schema else _pretty(schema)


def _pretty(value: object) -> str:
    return "any" if value == {} else f"<pre>{escape(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())}</pre>"
