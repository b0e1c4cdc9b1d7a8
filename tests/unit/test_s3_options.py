"""What the S3 settings become, and which are told to be wrong, all at once."""

from __future__ import annotations

import base64
import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import SettingsError
from headrace.s3.options import put_options
from headrace.s3.parts import LEAST_PART_BYTES, MOST_PARTS, PART_BYTES, Sent, SentPart, cut
from headrace.s3.probe import probe_key
from headrace.s3.store import is_temporary
from headrace.settings import S3Settings, load

if TYPE_CHECKING:
    from pathlib import Path

KMS = {"s3_server_side_encryption": "aws:kms"}


@pytest.fixture(autouse=True)
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("S3_BUCKET", "bucket")
    monkeypatch.setenv("HEADRACE_CONFIG", str(tmp_path / "none.toml"))


def test_by_default_nothing_is_sent_along() -> None:
    options = put_options(load(S3Settings))
    assert options.sent_with("p/t/o") == {}
    assert not options.metadata
    assert not options.in_parts(b"x" * 1000)


def test_keys_that_s3_manages() -> None:
    options = put_options(load(S3Settings, s3_server_side_encryption="AES256"))
    assert options.sent_with("k") == {"ServerSideEncryption": "AES256"}
    assert options.actions == ()


def test_all_of_it() -> None:
    settings = load(
        S3Settings,
        s3_acl="bucket-owner-full-control",
        s3_server_side_encryption="aws:kms",
        s3_sse_kms_key_id="arn:aws:kms:eu-west-1:1:key/2",
        s3_sse_kms_encryption_context="team=data,stage=live",
        s3_bucket_key_enabled="true",
        s3_storage_class="STANDARD_IA",
        s3_tags="cost centre=a/b+c, owner = me@example.org",
        s3_metadata="Team=data",
        s3_multipart_bytes=LEAST_PART_BYTES,
    )
    options = put_options(settings)
    sent = dict(options.sent_with("p/t/o"))
    context = json.loads(base64.b64decode(sent.pop("SSEKMSEncryptionContext")))
    assert context == {"team": "data", "stage": "live"}
    assert sent == {
        "ACL": "bucket-owner-full-control",
        "ServerSideEncryption": "aws:kms",
        "SSEKMSKeyId": "arn:aws:kms:eu-west-1:1:key/2",
        "BucketKeyEnabled": True,
        "StorageClass": "STANDARD_IA",
        "Tagging": "cost+centre=a%2Fb%2Bc&owner=me%40example.org",
    }
    assert options.metadata == {"Team": "data"}
    assert not options.in_parts(bytes(LEAST_PART_BYTES))
    assert options.in_parts(bytes(LEAST_PART_BYTES + 1))
    # Markers are read at every takeover, which an archive's class forbids.
    assert "StorageClass" not in options.sent_with("p/_headrace/t/g.c.json")
    assert "StorageClass" not in options.sent_with(probe_key("p"))
    assert options.sent_with("p/_headrace/t/g.c.json")["ServerSideEncryption"] == "aws:kms"


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"s3_sse_kms_key_id": "k"}, "S3_SSE_KMS_KEY_ID needs S3_SERVER_SIDE_ENCRYPTION=aws:kms"),
        ({"s3_bucket_key_enabled": "yes", "s3_server_side_encryption": "AES256"}, "S3_BUCKET_KEY_ENABLED needs"),
        (
            {"s3_bucket_key_enabled": "1", "s3_server_side_encryption": "aws:kms:dsse"},
            "no bucket keys for aws:kms:dsse",
        ),
        ({"s3_server_side_encryption": "rot13"}, "S3_SERVER_SIDE_ENCRYPTION = 'rot13'"),
        ({"s3_tags": "a"}, "'a' is not written name=value"),
        ({"s3_tags": "a=1,A=2"}, "has the same name twice"),
        ({"s3_tags": ",".join(f"t{n}=1" for n in range(11))}, "more than 10 tags"),
        ({"s3_tags": "aws:x=1"}, "not beginning with aws:"),
        ({"s3_tags": "a=1;2"}, "only letters, digits"),
        ({"s3_metadata": "headrace-records=1"}, "begins with headrace-"),
        ({"s3_metadata": "a=grün"}, "printable ASCII"),
        ({"s3_metadata": f"a={'x' * 1100}"}, "more than 1024 bytes"),
        ({"s3_storage_class": "standard ia"}, "S3_STORAGE_CLASS"),
        ({"s3_multipart_bytes": "1000"}, "less than 5 MiB"),
        ({"aws_ca_bundle": "/no/such.pem"}, "can't be read as PEM certificates"),
        ({"s3_client": "obstore", **KMS, "s3_sse_kms_encryption_context": "a=b"}, "S3_CLIENT=aiobotocore"),
        ({"s3_client": "obstore", "s3_acl": "private"}, "S3_ACL needs S3_CLIENT=aiobotocore"),
        ({"aws_request_checksum_calculation": "never"}, "AWS_REQUEST_CHECKSUM_CALCULATION"),
    ],
)
def test_what_can_not_be_sent_is_told_at_the_start(told: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError) as met:
        load(S3Settings, **told)
    assert sentence in str(met.value)


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as met:
        load(S3Settings, s3_client="obstore", s3_acl="private", s3_sse_kms_key_id="k", s3_bucket_key_enabled=True)
    for name in ("S3_ACL needs", "S3_SSE_KMS_KEY_ID needs", "S3_BUCKET_KEY_ENABLED needs"):
        assert name in str(met.value)


@given(st.integers(1, 200 * 1024 * PART_BYTES), st.integers(1, 1024 * PART_BYTES))
def test_parts_join_and_are_as_s3_takes_them(size: int, threshold: int) -> None:
    spans = cut(size, threshold)
    assert len(spans) <= MOST_PARTS
    assert spans[0][0] == 0
    assert spans[-1][1] == size
    assert all(stop == start for (_, stop), (start, _) in itertools.pairwise(spans))
    assert all(stop - start >= LEAST_PART_BYTES for start, stop in spans[:-1])


@given(st.binary(max_size=200), st.data())
def test_a_part_reads_like_a_file_of_its_own(body: bytes, data: st.DataObject) -> None:
    """Against BytesIO: what botocore (seek, tell, read) and aiohttp (getbuffer, read) do with it."""
    start = data.draw(st.integers(0, len(body)))
    stop = data.draw(st.integers(start, len(body)))
    part, model = SentPart(body, start, stop), Sent(body[start:stop])
    steps = st.tuples(st.sampled_from(["read", "seek", "end", "tell", "buffer"]), st.integers(0, 60))
    for what, number in data.draw(st.lists(steps, max_size=12)):
        if what == "read":
            assert part.read(number) == model.read(number)
        elif what == "seek":
            assert part.seek(number) == model.seek(number)
        elif what == "end":
            assert part.seek(0, 2) == model.seek(0, 2)
        elif what == "buffer":
            with part.getbuffer() as view, model.getbuffer() as theirs:
                assert view == theirs
        assert part.tell() == model.tell()
    part.seek(0)
    assert part.read() == body[start:stop]


def test_a_part_is_no_copy() -> None:
    body = bytes(1000)
    assert SentPart(body, 10, 990).getbuffer().obj is body


def test_what_passes_and_what_stays() -> None:
    assert is_temporary(503, "SlowDown")
    assert is_temporary(500, "InternalError")
    assert not is_temporary(501, "NotImplemented")
    assert is_temporary(404, "NoSuchUpload")
    assert not is_temporary(404, "NoSuchBucket")
    assert not is_temporary(403, "AccessDenied")
