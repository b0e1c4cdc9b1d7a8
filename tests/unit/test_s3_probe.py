"""The probe's sentences: what is missing, and what to do about it."""

from __future__ import annotations

import pytest

from headrace.s3 import S3Refused, S3Unavailable
from headrace.s3.probe import missing_rights, probe_key
from headrace.settings import S3Settings
from tests.fakes import Fault, MemoryStore

SETTINGS = S3Settings(s3_bucket="bucket", s3_prefix="p", s3_tags=("a=b",))
DENIED = S3Refused("403 AccessDenied", "AccessDenied")


async def test_all_is_well_and_one_object_stays() -> None:
    store = MemoryStore()
    for _ in range(3):
        assert await missing_rights(store, SETTINGS) == []
    assert list(store.objects) == ["p/_headrace/~probe"]
    assert probe_key("") == "_headrace/~probe"


@pytest.mark.parametrize(
    ("call", "what", "grant"),
    [
        ("list", "list s3://bucket/p", "s3:ListBucket on arn:aws:s3:::bucket"),
        ("put", "write below s3://bucket/p", "s3:PutObject and s3:PutObjectTagging on arn:aws:s3:::bucket/p/*"),
        ("get", "read below s3://bucket/p", "s3:GetObject on arn:aws:s3:::bucket/p/*"),
    ],
)
async def test_each_right_that_is_missing_is_told_with_what_to_grant(call: str, what: str, grant: str) -> None:
    store = MemoryStore()
    store.faults.append(Fault(call, DENIED))
    assert await missing_rights(store, SETTINGS) == [f"S3 refuses to {what}. Grant {grant}. (403 AccessDenied)"]


async def test_all_that_is_missing_is_told_at_once() -> None:
    store = MemoryStore()
    store.faults.extend(Fault(call, DENIED) for call in ("list", "put", "get"))
    assert len(await missing_rights(store, SETTINGS)) == 3


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("NoSuchBucket", "There is no bucket bucket. Create it"),
        ("SignatureDoesNotMatch", "S3 does not take these credentials"),
        ("ExpiredToken", "S3 does not take these credentials"),
        ("NoCredentialsError", "AWS_PROFILE, or the role"),
        ("PermanentRedirect", "Set AWS_REGION"),
    ],
)
async def test_what_stands_before_all_rights_is_told_once(code: str, sentence: str) -> None:
    store = MemoryStore()
    store.faults.extend(Fault(call, S3Refused("no", code)) for call in ("list", "put", "get"))
    (told,) = await missing_rights(store, SETTINGS)
    assert sentence in told
    store.faults.popleft()
    assert len(store.faults) == 1


async def test_a_server_that_can_not_what_is_asked() -> None:
    store = MemoryStore()
    store.faults.append(Fault("put", S3Refused("501 NotImplemented", "NotImplemented")))
    (told,) = await missing_rights(store, SETTINGS)
    assert "This S3 server can't write below s3://bucket/p as the settings (S3_…) ask" in told


async def test_a_store_that_does_not_show_what_was_put() -> None:
    class Forgetful(MemoryStore):
        async def get(self, key: str) -> bytes | None:
            return None

    (told,) = await missing_rights(Forgetful(), SETTINGS)
    assert "shows at once what was put" in told


async def test_no_answer_is_no_refusal() -> None:
    store = MemoryStore()
    store.faults.append(Fault("put", S3Unavailable("503")))
    with pytest.raises(S3Unavailable):
        await missing_rights(store, SETTINGS)
