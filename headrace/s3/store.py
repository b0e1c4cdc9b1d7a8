"""The port on aiobotocore."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as EndpointError
from botocore.exceptions import IncompleteReadError as TruncatedError

from headrace.errors import HeadraceError
from headrace.s3.multipart import Multipart
from headrace.s3.options import PutOptions
from headrace.s3.parts import Sent
from headrace.s3.port import ListedObject, S3Refused, S3Unavailable, StoredObject, UnfinishedUpload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping


NO_ANSWER: Final = (
    HTTPClientError,
    EndpointError,  # no HTTPClientError, though it is what a dead endpoint gives
    TruncatedError,
    aiohttp.ClientError,
    asyncio.IncompleteReadError,
    OSError,
)
UNTRUSTED: Final = ". The server's certificate is not trusted: AWS_CA_BUNDLE names the PEM file of who has signed it"


class S3Store:
    """The port on aiobotocore. Its own retries are off: a call is one attempt, so that the caller's deadlines hold.

    (aiohttp sends a request once more where the connection ends without an answer, within the same deadline.)
    """

    def __init__(
        self, client: Any, bucket: str, *, timeout_seconds: float = 60, options: PutOptions | None = None
    ) -> None:
        """`timeout_seconds`: so long a PUT lasts at most, in one piece or in parts."""
        self._client = client
        self._bucket = bucket
        self._timeout_seconds = timeout_seconds
        self._options = options or PutOptions()

    async def put(self, key: str, body: bytes, *, metadata: Mapping[str, str], content_type: str) -> None:
        options = self._options
        parameters = {
            "Metadata": {**options.metadata, **metadata},
            "ContentType": content_type,
            **options.sent_with(key),
        }
        # The client's read time-out does not hold while it waits for a server to say "100 Continue".
        with self._named("PUT", key):
            if options.in_parts(body):
                upload = Multipart(self._client, {"Bucket": self._bucket, "Key": key}, self._named)
                deadline = asyncio.get_running_loop().time() + self._timeout_seconds
                await upload.send(body, options.multipart_bytes, deadline=deadline, parameters=parameters)
                return
            async with asyncio.timeout(self._timeout_seconds):
                await self._client.put_object(Bucket=self._bucket, Key=key, Body=Sent(body), **parameters)

    async def head(self, key: str) -> StoredObject | None:
        try:
            with self._named("HEAD", key):
                answer = await self._client.head_object(Bucket=self._bucket, Key=key)
        except _NotFoundError:
            return None
        metadata = {name.lower(): value for name, value in answer["Metadata"].items()}
        return StoredObject(key, answer["ContentLength"], answer["LastModified"], metadata)

    async def get(self, key: str) -> bytes | None:
        try:
            with self._named("GET", key):
                answer = await self._client.get_object(Bucket=self._bucket, Key=key)
                async with answer["Body"] as body:
                    content: bytes = await body.read()
        except _NotFoundError:
            return None
        return content

    async def delete(self, key: str) -> None:
        """Remove one object; nothing happens where there is none. Only what made a prefix of its own may ask for it."""
        with self._named("DELETE", key):
            await self._client.delete_object(Bucket=self._bucket, Key=key)

    async def list(self, prefix: str) -> AsyncIterator[ListedObject]:
        token: dict[str, str] = {}
        while True:
            with self._named("LIST", prefix):
                page = await self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, **token)
            for item in page.get("Contents", ()):
                yield ListedObject(item["Key"], item["Size"], item["LastModified"])
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    async def unfinished(self, prefix: str) -> AsyncIterator[UnfinishedUpload]:
        markers: dict[str, str] = {}
        while True:
            with self._named("LIST UPLOADS of", prefix):
                page = await self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=prefix, **markers)
            now = _told_time(page)
            for item in page.get("Uploads", ()):
                if item["Key"].startswith(prefix):  # not every store looks at the prefix
                    age = (now - item["Initiated"]).total_seconds()
                    yield UnfinishedUpload(item["Key"], item["UploadId"], age)
            if not page.get("IsTruncated"):
                return
            markers = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    async def abort(self, upload: UnfinishedUpload) -> None:
        with contextlib.suppress(_NotFoundError), self._named("ABORT", upload.key):
            await self._client.abort_multipart_upload(Bucket=self._bucket, Key=upload.key, UploadId=upload.id)

    async def check(self) -> None:
        """Is the bucket there, and may we list it? Raises S3Unavailable or S3Refused."""
        with self._named("LIST", ""):
            await self._client.list_objects_v2(Bucket=self._bucket, MaxKeys=1)

    @contextlib.contextmanager
    def _named(self, what: str, key: str) -> Iterator[None]:
        """Turn the client's errors into ours."""
        place = f"{what} s3://{self._bucket}/{key}"
        try:
            yield
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            code = error.response.get("Error", {}).get("Code", "")
            if what in {"HEAD", "GET"} and status == 404 and code in {"404", "NoSuchKey", "NotFound"}:
                raise _NotFoundError from None
            if what == "ABORT" and code == "NoSuchUpload":
                raise _NotFoundError from None
            if is_temporary(status, code):
                raise S3Unavailable(f"{place}: {status} {code}") from None
            message = error.response.get("Error", {}).get("Message", "")
            raise S3Refused(f"{place}: {status} {code} {message}".rstrip(), code) from None
        except NO_ANSWER as error:
            hint = UNTRUSTED if "CERTIFICATE_VERIFY_FAILED" in str(error) else ""
            raise S3Unavailable(f"{place}: no answer ({type(error).__name__}: {error}){hint}") from None
        except BotoCoreError as error:  # no credentials, a parameter it would not send, …
            raise S3Refused(f"{place}: {type(error).__name__}: {error}", type(error).__name__) from None


def is_temporary(status: int, code: str) -> bool:
    """Whether an error answer says that the same may be had a moment later.

    501 does not: such a store will not learn it. An upload that somebody has aborted is begun anew.
    """
    if status >= 500:
        return status != 501
    return status in {408, 409, 429} or code in {"SlowDown", "RequestTimeout", "OperationAborted", "NoSuchUpload"}


def _told_time(answer: Mapping[str, Any]) -> datetime:
    """The store's own time: ours may be another."""
    told = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return datetime.now(UTC) if told is None else parsedate_to_datetime(told)


class _NotFoundError(HeadraceError):
    """The key isn't there."""
