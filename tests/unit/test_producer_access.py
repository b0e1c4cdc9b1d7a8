"""Who may publish: tokens, signatures, rates, and the settings that tell of them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import SecretStr

from headrace.errors import SettingsError
from headrace.management import Health
from headrace.objects import ObjectName, Range, object_key, parse_key
from headrace.settings import load
from producer import cli
from producer.access import Access, access_for
from producer.app import create_app
from producer.credentials import Credentials, is_loopback
from producer.errors import Kind, Problem
from producer.ingest import Ingest
from producer.intake import Intake
from producer.limits import payload_limits
from producer.rates import MAX_CALLERS, Bucket, Rates
from producer.settings import ProducerSettings
from producer.signatures import BadSignature, check_github, check_stripe
from producer.tokens import Caller, Tokens, entry_for, new_token, parse_tokens, plain_token, token_of
from tests.unit.test_producer_app import QuickOutlet

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = new_token()
OTHER = new_token()
GITHUB = "It's a Secret to Everybody"
STRIPE = "whsec_0123456789abcdef"
BODY = b'{"data":[1]}'


def github_signature(body: bytes, secret: str = GITHUB) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def stripe_signature(body: bytes, at: int, secret: str = STRIPE) -> str:
    return f"t={at},v1=" + hmac.new(secret.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()


# Tokens


def test_a_token_is_found_by_its_digest_alone() -> None:
    tokens = Tokens(parse_tokens([entry_for("web", TOKEN, []), entry_for("ci", OTHER, ["a", "b"])]))
    assert tokens.find(TOKEN.encode()) == Caller("web")
    assert tokens.find(OTHER.encode()) == Caller("ci", frozenset({"a", "b"}))
    assert tokens.find(TOKEN.encode() + b"x") is None
    assert tokens.find(b"") is None
    assert TOKEN not in repr(vars(tokens))
    assert len(tokens) == 2


@pytest.mark.parametrize(
    "entry",
    ["", "web", TOKEN, f"web:{TOKEN}", f"web:{'0' * 63}", f"a b:{'0' * 64}", f"web:{'0' * 64}:", f"w:{'0' * 64}:a/b"],
)
def test_an_entry_that_is_none_is_named_by_its_place_and_never_shown(entry: str) -> None:
    with pytest.raises(ValueError, match="entry 2 is not NAME:SHA256") as caught:
        parse_tokens([entry_for("ok", OTHER, []), entry])
    assert TOKEN not in str(caught.value)


def test_the_same_token_twice_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="entry 2 has the same token"):
        parse_tokens([entry_for("a", TOKEN, []), entry_for("b", TOKEN, [])])


@pytest.mark.parametrize("token", ["short", "x" * 15, "with a space in it", "grün" * 8, "line\n" * 8])
def test_a_plain_token_must_not_be_easy_to_guess_and_must_fit_a_header(token: str) -> None:
    with pytest.raises(ValueError, match="16 characters"):
        plain_token(token)
    assert list(plain_token("x" * 16).values()) == [Caller("default")]


@pytest.mark.parametrize(
    ("header", "token"),
    [
        (b"Bearer abc", b"abc"),
        (b"bearer  abc ", b"abc"),
        (b"Bearer", None),
        (b"Basic " + base64.b64encode(b"anybody:abc"), b"abc"),
        (b"Basic " + base64.b64encode(b"anybody"), None),
        (b"Basic %%%", None),
        (b"Digest x", None),
        (b"", None),
    ],
)
def test_what_an_authorization_header_shows(header: bytes, token: bytes | None) -> None:
    assert token_of(header) == token


def test_headrace_token_makes_one_that_is_taken() -> None:
    result = CliRunner().invoke(cli.token, ["web", "--topic", "a", "--topic", "b"])
    token, entry = (line.split()[1] for line in result.output.splitlines())
    assert Tokens(parse_tokens([entry])).find(token.encode()) == Caller("web", frozenset({"a", "b"}))
    assert CliRunner().invoke(cli.token, ["a name"]).exit_code == 2


# Signatures


def test_github_signs_as_its_documentation_shows() -> None:
    shown = b"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    check_github([b"another one", GITHUB.encode()], shown, b"Hello, World!")


@given(st.binary(max_size=40), st.binary(max_size=90))
@example(b"x", b"sha256=")
@example(b"x", b"sha256=\xff")
def test_nothing_but_the_right_signature_is_taken_for_one(body: bytes, shown: bytes) -> None:
    with pytest.raises(BadSignature):
        check_github([GITHUB.encode()], shown, body)
    with pytest.raises(BadSignature):
        check_stripe([STRIPE.encode()], shown, body, now=0, tolerance=300)


@given(st.binary(max_size=40), st.integers(0, 2**33), st.integers(-1000, 1000))
def test_stripes_signature_holds_within_its_time(body: bytes, at: int, off: int) -> None:
    shown = stripe_signature(body, at).encode()
    rolled = b"t=%d, v0=ff, v1=%s, %s" % (at, b"0" * 64, shown.split(b",")[1])
    for header in (shown, rolled):
        if abs(off) <= 300:
            check_stripe([b"old", STRIPE.encode()], header, body, now=at + off, tolerance=300)
        else:
            with pytest.raises(BadSignature, match=f"made {abs(off)} s"):
                check_stripe([STRIPE.encode()], header, body, now=at + off, tolerance=300)
    with pytest.raises(BadSignature, match="does not fit"):
        check_stripe([STRIPE.encode()], shown.replace(b"t=", b"t=1"), body, now=at, tolerance=300)


def test_of_a_thousand_signatures_few_are_looked_at() -> None:
    right = stripe_signature(BODY, 7).encode().split(b",")[1]
    many = b"t=7," + b",".join([b"v1=0"] * 8 + [right])
    with pytest.raises(BadSignature):
        check_stripe([STRIPE.encode()], many, BODY, now=7, tolerance=1)


# Rates


@given(st.floats(0.1, 1000), st.lists(st.tuples(st.floats(0, 3), st.floats(0, 50)), max_size=30))
def test_a_bucket_gives_no_more_than_its_rate_and_what_it_had(rate: float, asks: list[tuple[float, float]]) -> None:
    now, taken, bucket = 100.0, 0.0, Bucket(rate, 100.0)
    for later, units in asks:
        now += later
        if bucket.wait(now, units) == 0.0:
            bucket.take(now, units)
            taken += units
            longest = max((each for _, each in asks), default=0)
            assert taken <= (now - 100) * rate + max(rate, 1.0) + longest + 1e-6
        else:
            assert bucket.wait(now + bucket.wait(now, units) + 1e-6, units) < 1e-3 / rate


def test_a_caller_waits_for_its_own_debt_and_for_nobody_elses() -> None:
    rates = Rates(2, 100)
    assert [rates.admit("a", 0.0) for _ in range(2)] == [0.0, 0.0]
    assert rates.admit("a", 0.0) == pytest.approx(0.5)
    assert rates.admit("b", 0.0) == 0.0
    rates.spend("b", 0.0, 1000)
    assert rates.admit("b", 0.0) == pytest.approx(9.01)
    assert rates.admit("b", 9.02) == 0.0
    for number in range(MAX_CALLERS + 5):
        rates.admit(str(number), 10.0)
    assert len(rates) == MAX_CALLERS
    assert Rates(None, None).admit("x", 0.0) == 0.0


# Limits of payloads


def test_payloads_too_many_or_too_long_are_told_with_their_place() -> None:
    assert payload_limits(None, None) is None
    limits = payload_limits(3, 2)
    assert limits is not None
    limits.check([b"1", b"22", b"3"])
    limits.check([])
    with pytest.raises(Problem) as caught:
        limits.check([b"1"] * 4)
    assert (caught.value.kind, caught.value.members) == (Kind.TOO_LONG, {"limit": 3})
    with pytest.raises(Problem) as caught:
        limits.check([b"1", b"333"])
    assert caught.value.members == {"index": 1, "limit": 2}
    only_length = payload_limits(None, 2)
    assert only_length is not None
    only_length.check([b"1"] * 100)
    only_many = payload_limits(1, None)
    assert only_many is not None
    only_many.check([b"1" * 100])


# The front


class Guarded:
    """The whole app on an outlet that acknowledges at once, with a clock of its own."""

    def __init__(self, **values: Any) -> None:
        self.settings = ProducerSettings.model_validate({"kafka_topic": "t", "linger_ms": 0, **values})
        self.now = 1_000_000.0
        self.intake = Intake(self.settings)
        self.outlet = QuickOutlet(self.intake)
        self.intake.open(self.outlet)
        access = access_for(self.settings)
        assert access is not None
        access._clock = access._monotonic = lambda: self.now
        app: Any = create_app(Ingest(self.settings, self.intake, None, access.admit), Health())
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")

    async def post(self, body: bytes = BODY, **headers: str) -> tuple[int, str]:
        """Status, and the problem's name."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await self.client.post("/payloads", content=body, headers={"content-type": "application/json", **sent})
        self.answer = answer
        assert self.intake.budget.bytes == 0
        assert bool(self.outlet.batches) == (answer.status_code == 200)
        self.outlet.batches.clear()
        return answer.status_code, answer.json().get("type", "").rpartition(":")[2]


def tokens_for(**topics: str) -> str:
    return ",".join([entry_for("web", TOKEN, []), entry_for("ci", OTHER, topics.get("ci", "elsewhere").split("|"))])


async def test_a_token_in_the_header_or_in_the_collection() -> None:
    front = Guarded(http_tokens=tokens_for())
    assert await front.post(authorization=f"Bearer {TOKEN}") == (200, "")
    with_token = b'{"version":"1","token":"%s","data":[1]}'
    assert await front.post(with_token % TOKEN.encode()) == (200, "")
    assert await front.post() == (401, "no-credentials")
    assert front.answer.headers["www-authenticate"] == 'Bearer realm="headrace"'
    for shown in (TOKEN + "x", TOKEN[:-1], "x" * 46, "hr_" + "0" * 43):
        assert await front.post(authorization=f"Bearer {shown}") == (401, "bad-credentials")
        told = front.answer.content
        assert front.answer.headers["www-authenticate"] == 'Bearer realm="headrace", error="invalid_token"'
        assert await front.post(with_token % shown.encode()) == (401, "bad-credentials")
        assert front.answer.content == told, "unknown and nearly right are told the same"
    assert await front.post(b'{"token":7,"data":[1]}') == (401, "no-credentials")
    assert await front.post(b"not JSON") == (401, "no-credentials")
    assert await front.post(b"[" * 100_000) == (401, "no-credentials")
    assert await front.post(with_token % TOKEN.encode(), authorization="Bearer wrong") == (401, "bad-credentials")
    assert await front.post(authorization="Digest x") == (401, "bad-credentials")
    assert await front.post(b"1\n2", content_type="application/x-ndjson") == (401, "no-credentials")
    assert await front.post(b"1", content_type="application/x-ndjson", authorization=f"Bearer {TOKEN}") == (200, "")


async def test_a_token_for_other_topics_is_forbidden() -> None:
    front = Guarded(http_tokens=tokens_for())
    assert await front.post(authorization=f"Bearer {OTHER}") == (403, "forbidden")
    assert "ci may not publish to topic t." in front.answer.text
    assert await front.post(b'{"token":"%s","data":[1]}' % OTHER.encode()) == (403, "forbidden")
    allowed = Guarded(http_tokens=tokens_for(ci="x|t"))
    assert await allowed.post(authorization=f"Bearer {OTHER}") == (200, "")


def test_who_shows_nothing_is_refused_before_the_body_where_no_body_can_tell() -> None:
    def admit(path: str, **values: str) -> None:
        access = access_for(ProducerSettings.model_validate({"kafka_topic": "t", **values}))
        assert access is not None
        access.admit({"path": path}, {})

    for path in ("/payloads", "/events"):
        with pytest.raises(Problem, match="X-Hub-Signature-256"):
            admit(path, http_github_secret=GITHUB)
    with pytest.raises(Problem, match="Authorization: Bearer"):
        admit("/events", http_token=TOKEN)
    admit("/payloads", http_token=TOKEN)


async def test_webhooks_that_sign_may_publish_to_the_own_topic_alone() -> None:
    front = Guarded(http_github_secret=f"another secret 123,{GITHUB}", http_stripe_secret=STRIPE)
    assert await front.post(x_hub_signature_256=github_signature(BODY)) == (200, "")
    assert await front.post(x_hub_signature_256=github_signature(b"x")) == (401, "bad-credentials")
    assert await front.post(stripe_signature=stripe_signature(BODY, int(front.now) - 200)) == (200, "")
    assert await front.post(stripe_signature=stripe_signature(BODY, int(front.now) - 400)) == (401, "bad-credentials")
    assert "400 s ago" in front.answer.text
    assert await front.post(authorization=f"Bearer {TOKEN}") == (401, "no-credentials")
    access = access_for(front.settings)
    assert access is not None
    visitor = access.admit({"path": "/topics/x"}, {b"x-hub-signature-256": b""})
    with pytest.raises(Problem, match="may not publish to topic x"):
        visitor.check_topic("x")


async def test_a_callers_own_limit_is_429_with_when_to_try_again() -> None:
    front = Guarded(http_tokens=tokens_for(ci="t"), rate_requests_per_second="1", rate_bytes_per_second="10")
    assert await front.post(authorization=f"Bearer {TOKEN}") == (200, "")
    front.now += 0.5
    assert await front.post(authorization=f"Bearer {TOKEN}") == (429, "too-many")
    assert front.answer.headers["retry-after"] == "1"
    assert await front.post(authorization=f"Bearer {OTHER}") == (200, "")
    front.now += 100
    big = b'{"data":[%s]}' % (b"1," * 50 + b"1")
    assert await front.post(big, authorization=f"Bearer {TOKEN}") == (200, "")
    front.now += 2
    assert await front.post(authorization=f"Bearer {TOKEN}") == (429, "too-many")
    assert int(front.answer.headers["retry-after"]) > 5


async def test_without_credentials_an_address_has_limits_too() -> None:
    front = Guarded(rate_requests_per_second="0.5")
    assert await front.post() == (200, "")
    assert await front.post() == (429, "too-many")
    assert front.answer.headers["retry-after"] == "2"


def test_where_nothing_is_set_nothing_is_asked() -> None:
    assert access_for(ProducerSettings.model_validate({"kafka_topic": "t"})) is None


def test_access_shows_no_secret_of_itself() -> None:
    credentials = Credentials(plain_token(TOKEN), (GITHUB.encode(),), (STRIPE.encode(),))
    access = Access(credentials, own_topic="t", tolerance=1, rates=None)
    for thing in (credentials, access):
        assert GITHUB not in repr(thing)
        assert STRIPE not in repr(thing)


# Settings


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST", "::ffff:127.0.0.1"])
def test_loopback_is_open(host: str) -> None:
    assert is_loopback(host)
    ProducerSettings.model_validate({"kafka_topic": "t", "http_host": host})


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.1.2.3", "localhost.example.com", "fe80::1%eth0", "::ffff:1.2.3.4"]
)
def test_anywhere_else_needs_credentials_or_a_clear_word(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_loopback(host)
    monkeypatch.setattr(os, "environ", {"KAFKA_TOPIC": "t", "HTTP_HOST": host, "HEADRACE_CONFIG": os.devnull})
    with pytest.raises(SettingsError, match="HTTP_TOKENS") as caught:
        load(ProducerSettings)
    assert caught.value.exit_code == 2
    assert "HTTP_ALLOW_ANONYMOUS=true" in str(caught.value)
    for values in (
        {"http_allow_anonymous": "true"},
        {"http_token": TOKEN},
        {"http_tokens": tokens_for()},
        {"http_github_secret": GITHUB},
        {"http_stripe_secret": STRIPE},
    ):
        assert load(ProducerSettings, **values).http_host == host


def test_files_hold_more_of_them(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"# the page's\n{entry_for('web', TOKEN, [])}\n\n")
    (tmp_path / "github").write_text(GITHUB + "\n")
    (tmp_path / "stripe").write_text(STRIPE + "\n")
    values = {
        f"http_{name}_file": tmp_path / file
        for name, file in {"tokens": "tokens", "github_secret": "github", "stripe_secret": "stripe"}.items()
    }
    found = ProducerSettings.model_validate({"kafka_topic": "t", "http_token": OTHER, **values}).credentials()
    assert {caller.name for caller in found.tokens.values()} == {"web", "default"}
    assert (found.github, found.stripe) == ((GITHUB.encode(),), (STRIPE.encode(),))


def test_what_is_wrong_with_them_is_told_at_once_and_shows_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    told = {
        "HTTP_TOKENS": TOKEN,
        "HTTP_TOKENS_FILE": str(tmp_path / "none"),
        "HTTP_TOKEN": "hunter2",
        "HTTP_GITHUB_SECRET": "hunter3",
        "HTTP_STRIPE_SECRET_FILE": str(tmp_path / "binary"),
    }
    monkeypatch.setattr(os, "environ", {"KAFKA_TOPIC": "t", "HEADRACE_CONFIG": os.devnull, **told})
    with pytest.raises(SettingsError) as caught:
        load(ProducerSettings)
    for name in told:
        assert name in str(caught.value)
    for secret in (TOKEN, "hunter2", "hunter3"):
        assert secret not in str(caught.value)


def test_a_secret_of_the_wrong_type_is_not_shown_either(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "headrace.toml").write_text(f'kafka_topic = "t"\nhttp_tokens = ["{TOKEN}"]\n')
    monkeypatch.setattr(os, "environ", {"HEADRACE_CONFIG": str(tmp_path / "headrace.toml")})
    with pytest.raises(SettingsError, match="HTTP_TOKENS") as caught:
        load(ProducerSettings)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("origin", ["example.com", "https://example.com/", "https://a b", "https://*.example.com"])
def test_an_origin_is_a_scheme_a_host_and_a_port(origin: str) -> None:
    with pytest.raises(ValueError, match="is no origin"):
        ProducerSettings.model_validate({"kafka_topic": "t", "cors_origins": origin})
    fine = "https://example.com,http://127.0.0.1:8080,null,*"
    assert len(ProducerSettings.model_validate({"kafka_topic": "t", "cors_origins": fine}).cors_origins) == 4


def test_tls_is_told_whole(tmp_path: Path) -> None:
    for values in (
        {"http_tls_key_file": tmp_path / "key"},
        {"http_tls_client_ca_file": tmp_path / "ca"},
        {"http_tls_certificate_file": tmp_path / "none"},
    ):
        with pytest.raises(ValueError, match="TLS"):
            ProducerSettings.model_validate({"kafka_topic": "t", **values})


def test_secrets_are_masked_wherever_settings_are_printed() -> None:
    settings = ProducerSettings.model_validate(
        {"kafka_topic": "t", "http_token": TOKEN, "http_github_secret": GITHUB, "http_stripe_secret": STRIPE}
    )
    assert isinstance(settings.http_token, SecretStr)
    for secret in (TOKEN, GITHUB, STRIPE):
        assert secret not in repr(settings)


# Names


@given(
    st.one_of(
        st.text(max_size=20),
        st.text("._-aZ09/\\\0%", max_size=5),
        st.sampled_from([".", "..", "a/b", "_headrace", "\n"]),
    )
)
def test_a_topic_that_is_taken_can_not_leave_its_place_in_s3(topic: str) -> None:
    try:
        ProducerSettings.model_validate({"kafka_topic": topic})
    except ValueError:
        return
    key = object_key(prefix="p", topic=topic, partition=3, offsets=Range(5, 9), bucket="dt=1", suffix="jsonl")
    folders = key.split("/")
    assert folders[:3] == ["p", topic, "dt=1"]
    assert len(folders) == 4
    assert not {"", ".", ".."} & set(folders)
    assert key.isascii()
    assert key.isprintable()
    assert parse_key(key) == ObjectName(topic, 3, Range(5, 9), "jsonl")
