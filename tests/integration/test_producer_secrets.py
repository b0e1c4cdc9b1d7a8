"""No secret is ever told: a real producer with secrets everywhere, at LOG_LEVEL=debug, under good and bad requests."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from producer.tokens import entry_for, new_token
from tests.producer_process import ProducerProcess, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

pytestmark = pytest.mark.stack

PLAIN, NAMED, ELSEWHERE = (new_token() for _ in range(3))
GITHUB = "github-" + new_token()
STRIPE = "whsec_" + new_token()
SASL = "sasl-" + new_token()
SHOWN_WRONGLY = "wrong-" + new_token()
SECRETS = {"PLAIN": PLAIN, "NAMED": NAMED, "ELSEWHERE": ELSEWHERE, "GITHUB": GITHUB, "STRIPE": STRIPE, "SASL": SASL,
           "SHOWN_WRONGLY": SHOWN_WRONGLY}  # fmt: skip


def leaks(text: str) -> list[str]:
    """The secrets that stand there, as they are or in the forms in which they travel."""
    forms = {
        name: (
            secret,
            secret[5:25],
            base64.b64encode(secret.encode()).decode()[:30],
            base64.b64encode(b"x:" + secret.encode()).decode(),
        )
        for name, secret in SECRETS.items()
    }
    return [name for name, shapes in forms.items() if any(shape in text for shape in shapes)]


def signed(body: bytes, secret: str) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def requests() -> list[tuple[int, bytes, dict[str, str]]]:
    """What is to be answered, the body, and its headers."""
    body = b'{"data":[1]}'
    now = int(time.time())
    stripe = f"t={now},v1=" + signed(b"%d." % now + body, STRIPE)
    late = f"t={now - 9999},v1=" + signed(b"%d." % (now - 9999) + body, STRIPE)
    broken = b'{"token":"%s","data":[}' % NAMED.encode()
    return [
        (200, body, {"authorization": f"Bearer {PLAIN}"}),
        (200, body, {"authorization": f"Bearer {NAMED}"}),
        (200, body, {"authorization": "Basic " + base64.b64encode(f"x:{NAMED}".encode()).decode()}),
        (200, b'{"token":"%s","data":[1]}' % NAMED.encode(), {}),
        (200, body, {"x-hub-signature-256": "sha256=" + signed(body, GITHUB)}),
        (200, body, {"stripe-signature": stripe}),
        (401, body, {"authorization": f"Bearer {SHOWN_WRONGLY}"}),
        (401, body, {"authorization": SHOWN_WRONGLY}),
        (401, body, {"authorization": f"Digest {NAMED}"}),
        (401, b'{"token":"%s","data":[1]}' % SHOWN_WRONGLY.encode(), {}),
        (401, b'{"token":{"%s":1},"data":[1]}' % NAMED.encode(), {}),
        (401, broken, {}),
        (400, broken, {"authorization": f"Bearer {NAMED}"}),
        (403, b'{"token":"%s","data":[1]}' % ELSEWHERE.encode(), {}),
        (401, body, {"x-hub-signature-256": SHOWN_WRONGLY}),
        (401, body, {"stripe-signature": late}),
        (415, body, {"authorization": f"Bearer {NAMED}", "content-type": "image/png"}),
        (413, b" " * 2000, {"authorization": f"Bearer {NAMED}"}),
        (400, body, {"authorization": f"Bearer {NAMED}", "idempotency-key": SHOWN_WRONGLY * 9}),
    ]


async def ask_all(url: str) -> str:
    """All that was answered, heads and bodies."""
    told = ""
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
        for status, body, headers in requests():
            answer = await client.post(
                "/payloads", content=body, headers={"content-type": "application/json", **headers}
            )
            assert answer.status_code == status, (status, headers, answer.text)
            told += f"{answer.headers} {answer.text}\n"
        for path in ("/metrics", "/readyz", "/openapi.json", "/docs", f"/{NAMED}"):
            answer = await client.get(path, headers={"authorization": f"Bearer {NAMED}"})
            if NAMED not in path:  # its own path is told to who asked for it
                told += f"{answer.headers} {answer.text}\n"
    parts = httpx.URL(url)
    for raw in (
        b"GET / HTTP/9\r\nAuthorization: Bearer %b\r\n\r\n",
        b"POST /payloads HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nAuthorization: Bearer %b\r\n\r\n",
        b"Bearer %b",
    ):
        reader, writer = await asyncio.open_connection(parts.host, parts.port)
        writer.write(raw % NAMED.encode())
        writer.write_eof()
        told += (await reader.read(4096)).decode()
        writer.close()
    return told


@pytest.fixture
def secrets(tmp_path: Path) -> dict[str, str]:
    """An environment full of them, some in files."""
    (tmp_path / "tokens").write_text(entry_for("elsewhere", ELSEWHERE, ["another-topic"]))
    (tmp_path / "stripe").write_text(STRIPE)
    return {
        "HTTP_TOKEN": PLAIN,
        "HTTP_TOKENS": entry_for("named", NAMED, []),
        "HTTP_TOKENS_FILE": str(tmp_path / "tokens"),
        "HTTP_GITHUB_SECRET": GITHUB,
        "HTTP_STRIPE_SECRET_FILE": str(tmp_path / "stripe"),
        "KAFKA_SASL_USERNAME": "headrace",
        "KAFKA_SASL_PASSWORD": SASL,
        "MAX_LENGTH": "1000",
        "LOG_LEVEL": "debug",
    }


def configured(environment: Mapping[str, str], topic: str) -> str:
    """What `headrace config` shows, both ways."""
    told = ""
    for options in ([], ["--json"]):
        shown = subprocess.run(
            [sys.executable, "-m", "headrace", "config", "serve", *options],
            env={**environment, "KAFKA_TOPIC": topic, "COLUMNS": "500"},
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[2],
        )
        told += shown.stdout + shown.stderr
    assert "HTTP_TOKENS" in told
    return told


@pytest.mark.parametrize("form", ["text", "json"])
async def test_no_secret_is_told_by_one_that_works(
    service_env: dict[str, str], secrets: dict[str, str], topic: Callable[..., str], form: str
) -> None:
    name = topic()
    environment = {**service_env, **secrets, "LOG_FORMAT": form}
    with ProducerProcess(environment, KAFKA_TOPIC=name, KAFKA_TOPIC_PARTITIONS="1") as process:
        told = await ask_all(await process.ready())
        process.terminate()
        assert await process.ended() == 0
        log = process.log
    assert "debug" in log.lower()
    assert leaks(log) == []
    assert leaks(told) == []
    assert leaks(configured(environment, name)) == []


async def test_no_secret_is_told_by_one_whose_kafka_refuses_it(
    service_env: dict[str, str], secrets: dict[str, str]
) -> None:
    environment = {
        **service_env,
        **secrets,
        "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA_SASL_MECHANISM": "PLAIN",
    }
    with ProducerProcess(environment, KAFKA_TOPIC="t") as process:
        url = await process.address()
        told = ""
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            answer = await client.post(
                "/payloads", content=b'{"data":[1]}', headers={"authorization": f"Bearer {NAMED}"}
            )
            assert answer.status_code == 503
            told += answer.text + (await client.get("/readyz")).text + (await client.get("/metrics")).text
        process.terminate()
        assert await process.ended() == 0
        log = process.log
    assert "Kafka" in log
    assert leaks(log) == []
    assert leaks(told) == []
    assert leaks(configured(environment, "t")) == []


async def test_no_secret_is_told_where_settings_are_wrong(service_env: dict[str, str]) -> None:
    wrong = {"HTTP_TOKENS": NAMED, "HTTP_TOKEN": SHOWN_WRONGLY[:15], "KAFKA_SASL_PASSWORD": SASL, "HTTP_PORT": "x"}
    environment = {**service_env, **wrong, "KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "HTTP_GITHUB_SECRET": GITHUB}
    with ProducerProcess(environment, KAFKA_TOPIC="t", HTTP_HOST="0.0.0.0") as process:
        assert await process.ended() == 2
        assert leaks(process.log) == []
        assert SHOWN_WRONGLY[:15] not in process.log
    assert leaks(configured(environment, "t")) == []


def test_a_leak_would_be_seen() -> None:
    assert leaks(f"x {NAMED} y") == ["NAMED"]


async def test_every_endpoint_asks_who_calls(service_env: dict[str, str], topic: Callable[..., str]) -> None:
    name, other = topic(), topic()
    tokens = ",".join(
        [entry_for("all", PLAIN, []), entry_for("own", NAMED, [name]), entry_for("not", ELSEWHERE, ["x"])]
    )
    proxy = "application/vnd.kafka.json.v2+json"
    records = b'{"records":[{"value":1}]}'
    asks = [
        ("/payloads", "application/json", b'{"data":[1]}', name),
        ("/payloads", "application/x-ndjson", b"1\n2", name),
        ("/events", "application/json", b"1", name),
        (f"/topics/{name}", proxy, records, name),
        (f"/topics/{name}/partitions/0", proxy, records, name),
        (f"/topics/{other}", proxy, records, other),
    ]
    environment = {**service_env, "HTTP_TOKENS": tokens, "HTTP_GITHUB_SECRET": GITHUB, "KAFKA_TOPICS_ALLOWED": other}
    async with (
        serving(environment, name) as (_, url),
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client,
    ):
        for path, kind, body, to in asks:

            async def ask(*, body: bytes = body, path: str = path, kind: str = kind, **headers: str) -> httpx.Response:
                named = {header.replace("_", "-"): value for header, value in headers.items()}
                return await client.post(path, content=body, headers={"content-type": kind, **named})

            own = 200 if to == name else 403
            answer = await ask(authorization=f"Bearer {PLAIN}")
            assert answer.status_code == 200, (path, answer.text)
            answer = await ask(authorization=f"Bearer {NAMED}")
            assert answer.status_code == own, (path, answer.text)
            assert (await ask(authorization=f"Bearer {ELSEWHERE}")).status_code == 403, path
            assert (await ask(x_hub_signature_256="sha256=" + signed(body, GITHUB))).status_code == own, path
            for refused in (await ask(), await ask(authorization=f"Bearer {SHOWN_WRONGLY}")):
                assert refused.status_code == 401, path
                assert refused.headers["www-authenticate"].startswith("Bearer"), path
            forged = await ask(x_hub_signature_256="sha256=" + signed(body + b" ", GITHUB))
            assert forged.status_code == (401 if to == name else 403), path
