"""What is sent along with objects, rights and roles: on moto, which knows KMS's parameters, IAM and STS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from headrace.errors import SettingsError
from headrace.s3 import S3Refused, S3Store, open_store
from headrace.s3.parts import LEAST_PART_BYTES
from headrace.s3.probe import missing_rights
from headrace.settings import S3Settings, load
from tests import services
from tests.moto_s3 import MotoS3
from tests.object_store_contract import ObjectStoreContract
from tests.trial import trial

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from headrace.s3 import ObjectStore

pytestmark = pytest.mark.stack

ALL = ["s3:ListBucket", "s3:PutObject", "s3:GetObject", "s3:AbortMultipartUpload", "s3:ListBucketMultipartUploads"]
KEY_ID = "arn:aws:kms:us-east-1:123456789012:key/1234"


@pytest.fixture(scope="module")
def moto_server() -> Iterator[MotoS3]:
    with services.scratch_folder() as folder:
        (server,) = services.started(lambda: (MotoS3(folder),))
        try:
            yield server
        finally:
            server.kill()


@pytest.fixture
def moto(moto_server: MotoS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MotoS3]:
    for name, value in moto_server.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    yield moto_server
    moto_server.open_up()


@pytest.fixture(autouse=True, params=["aiobotocore", "obstore"])
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    monkeypatch.setenv("S3_CLIENT", name)
    return name


@pytest.fixture
async def store(moto: MotoS3) -> AsyncIterator[S3Store]:
    async with open_store(load(S3Settings, s3_multipart_bytes=LEAST_PART_BYTES)) as store:
        yield store


class TestMoto(ObjectStoreContract):
    """moto gives ten times as long for the many objects of the listing; SeaweedFS and S3Proxy list thousands."""

    async def test_a_listing_has_all_pages_in_order(self, store: ObjectStore, topic: Callable[..., str]) -> None:
        folder = topic("pages")
        for number in range(20):
            await put(store, f"{folder}/{number:05d}", b"x")
        assert [item.key async for item in store.list(f"{folder}/")] == [f"{folder}/{n:05d}" for n in range(20)]


async def put(store: ObjectStore, key: str, body: bytes) -> None:
    await store.put(key, body, metadata={"headrace-records": "3"}, content_type="application/zstd")


def as_stored(moto: MotoS3, key: str) -> dict[str, Any]:
    s3 = moto.client("s3")
    found = s3.head_object(Bucket="headrace", Key=key)
    found["Tags"] = {tag["Key"]: tag["Value"] for tag in s3.get_object_tagging(Bucket="headrace", Key=key)["TagSet"]}
    return dict(found)


@pytest.mark.parametrize("size", [10, LEAST_PART_BYTES + 10], ids=["one piece", "parts"])
async def test_what_was_sent_is_there(moto: MotoS3, client: str, topic: Callable[..., str], size: int) -> None:
    """tests/unit/test_s3_sent.py has the rest: moto keeps neither ACL nor bucket key of uploads in parts."""
    told: dict[str, Any] = {
        "s3_server_side_encryption": "aws:kms",
        "s3_sse_kms_key_id": KEY_ID,
        "s3_bucket_key_enabled": True,
        "s3_storage_class": "STANDARD_IA",
        "s3_tags": "cost centre=a/b+c,owner=me@example.org",
        "s3_metadata": "Team=data lake",
        "s3_multipart_bytes": LEAST_PART_BYTES,
    }
    if client == "aiobotocore":
        told |= {"s3_sse_kms_encryption_context": "team=data,stage=live", "s3_acl": "public-read"}
    keys = {name: f"p/{folder}/{topic('all')}" for name, folder in (("object", "t"), ("marker", "_headrace/t"))}
    async with open_store(load(S3Settings, **told)) as store:
        for key in keys.values():
            await put(store, key, bytes(size))
    for name, key in keys.items():
        found = as_stored(moto, key)
        assert found["ContentLength"] == size
        assert found["Metadata"] == {"team": "data lake", "headrace-records": "3"}
        assert found["ContentType"] == "application/zstd"
        assert found["ServerSideEncryption"] == "aws:kms"
        assert found["SSEKMSKeyId"] == KEY_ID
        assert found["Tags"] == {"cost centre": "a/b+c", "owner": "me@example.org"}
        assert found.get("StorageClass") == ("STANDARD_IA" if name == "object" else None)


async def test_s3_managed_keys(moto: MotoS3, topic: Callable[..., str]) -> None:
    async with open_store(load(S3Settings, s3_server_side_encryption="AES256")) as store:
        await put(store, key := topic("aes"), b"x")
    assert as_stored(moto, key)["ServerSideEncryption"] == "AES256"


# Rights


@pytest.mark.parametrize("missing", ["s3:ListBucket", "s3:PutObject", "s3:GetObject"])
async def test_each_right_that_is_missing_is_told(
    moto: MotoS3, monkeypatch: pytest.MonkeyPatch, topic: Callable[..., str], missing: str
) -> None:
    for name, value in moto.user(topic("user"), [action for action in ALL if action != missing]).items():
        monkeypatch.setenv(name, value)
    moto.guard()
    settings = load(S3Settings, s3_prefix=topic("p"))
    async with open_store(settings) as store:
        (told,) = await missing_rights(store, settings)
    assert f"Grant {missing} on arn:aws:s3:::headrace" in told
    assert "403 AccessDenied" in told


async def test_strangers_and_missing_buckets_are_told(
    moto: MotoS3, monkeypatch: pytest.MonkeyPatch, topic: Callable[..., str]
) -> None:
    settings = load(S3Settings, s3_bucket=topic("nobody"))
    async with open_store(settings) as store:
        (told,) = await missing_rights(store, settings)
    assert told.startswith(f"There is no bucket {settings.s3_bucket}. Create it")
    for name, value in moto.user(topic("user"), ALL).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    moto.guard()
    settings = load(S3Settings)
    async with open_store(settings) as store:
        (told,) = await missing_rights(store, settings)
    assert told.startswith("S3 does not take these credentials")


# The AWS chain


async def test_a_profile_that_assumes_a_role(
    moto: MotoS3, monkeypatch: pytest.MonkeyPatch, topic: Callable[..., str], tmp_path: Path
) -> None:
    """The user itself may not write: only the role may."""
    keys = moto.user(topic("user"), ["sts:AssumeRole"])
    arn = moto.role(topic("role"), ALL)
    (tmp_path / "AWS_CONFIG_FILE").write_text(
        f"[profile base]\naws_access_key_id={keys['AWS_ACCESS_KEY_ID']}\n"
        f"aws_secret_access_key={keys['AWS_SECRET_ACCESS_KEY']}\n"
        f"[profile archive]\nrole_arn={arn}\nsource_profile=base\n"
    )
    for name in keys:
        monkeypatch.delenv(name)
    moto.guard()
    for profile, allowed in (("base", False), ("archive", True)):
        monkeypatch.setenv("AWS_PROFILE", profile)
        async with open_store(load(S3Settings)) as store:
            if allowed:
                await put(store, key := topic("role"), b"x")
                assert await store.get(key) == b"x"
            else:
                with pytest.raises(S3Refused, match="403"):
                    await put(store, topic("role"), b"x")


async def test_a_web_identity(
    moto: MotoS3, monkeypatch: pytest.MonkeyPatch, topic: Callable[..., str], tmp_path: Path
) -> None:
    """What a pod gets from Kubernetes: a token in a file, and a role."""
    arn = moto.role(topic("role"), ALL)
    token = tmp_path / "token"
    token.write_text("eyJhbGciOiJub25lIn0.e30.")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ROLE_ARN", arn)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
    async with open_store(load(S3Settings)) as store:
        await put(store, key := topic("pod"), b"x")
        assert await store.get(key) == b"x"


def test_what_obstore_can_not_is_told_at_the_start(client: str, moto: MotoS3) -> None:
    told = {"s3_acl": "private", "s3_server_side_encryption": "aws:kms", "s3_sse_kms_encryption_context": "a=b"}
    if client == "aiobotocore":
        load(S3Settings, **told)
        return
    with pytest.raises(SettingsError) as met:
        load(S3Settings, **told)
    assert "S3_ACL needs S3_CLIENT=aiobotocore" in str(met.value)
    assert "S3_SSE_KMS_ENCRYPTION_CONTEXT needs S3_CLIENT=aiobotocore" in str(met.value)


async def test_an_archive_on_moto(kafka: services.KafkaService, moto: MotoS3, client: str) -> None:
    environment = services.subprocess_environment(kafka.bootstrap, moto.environment)
    with trial(environment, 2, "third") as it:
        await it.create_topic()
        await it.produce(1500)
        it.start(S3_CLIENT=client, S3_TAGS="a=b", S3_SERVER_SIDE_ENCRYPTION="AES256", S3_STORAGE_CLASS="STANDARD_IA")
        await it.stored()
        assert await it.assert_exactly_once() == 1500
        for key in await it.stamps():
            found = as_stored(moto, key)
            assert found["ServerSideEncryption"] == "AES256"
            assert found["StorageClass"] == "STANDARD_IA"
            assert found["Tags"] == {"a": "b"}
