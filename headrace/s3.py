"""The S3 port and its adapter on aiobotocore: a few calls, and errors named by what is to be done about them."""

from __future__ import annotations

import asyncio
import contextlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as EndpointError
from botocore.exceptions import IncompleteReadError as TruncatedError

from headrace.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from datetime import datetime

    from headrace.settings import S3Settings


NO_ANSWER: Final = (
    HTTPClientError,
    EndpointError,  # no HTTPClientError, though it is what a dead endpoint gives
    TruncatedError,
    aiohttp.ClientError,
    asyncio.IncompleteReadError,
    OSError,
)


class S3Unavailable(HeadraceError):
    """The store did not answer, or answered that it can't now. Try again."""


class S3Refused(HeadraceError):
    """The store answered no (403, no such bucket, …). Somebody has to change something; then try again."""


@dataclass(frozen=True, slots=True)
class ListedObject:
    key: str
    size: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What HEAD tells; `metadata` is the user metadata, names in lower case."""

    key: str
    size: int
    modified: datetime
    metadata: Mapping[str, str]


class ObjectStore(Protocol):
    """The port: what headrace asks of an S3 store. Read-after-write listing is all it needs to promise.

    Every call raises S3Unavailable or S3Refused and nothing else of the client's.
    """

    async def put(self, key: str, body: bytes, *, metadata: Mapping[str, str], content_type: str) -> None:
        """Store one object in a single request. On an error it may be stored all the same, now or later."""
        ...

    async def head(self, key: str) -> StoredObject | None: ...

    async def get(self, key: str) -> bytes | None: ...

    def list(self, prefix: str) -> AsyncIterator[ListedObject]:
        """All objects below `prefix`, in the order of their keys."""
        ...


class S3Store:
    """The port on aiobotocore. Its own retries are off: a call is one attempt, so that the caller's deadlines hold.

    (aiohttp sends a request once more where the connection ends without an answer, within the same deadline.)
    """

    def __init__(self, client: Any, bucket: str, *, timeout_seconds: float = 60, acl: str | None = None) -> None:
        """`timeout_seconds`: so long a PUT lasts at most. `acl`: of each object; None: no header tells one."""
        self._client = client
        self._bucket = bucket
        self._timeout_seconds = timeout_seconds
        self._more = {} if acl is None else {"ACL": acl}

    async def put(self, key: str, body: bytes, *, metadata: Mapping[str, str], content_type: str) -> None:
        # The client's read time-out does not hold while it waits for a server to say "100 Continue".
        with self._named("PUT", key):
            async with asyncio.timeout(self._timeout_seconds):
                await self._client.put_object(
                    Bucket=self._bucket,
                    Key=key,
                    Body=_Sent(body),
                    Metadata=dict(metadata),
                    ContentType=content_type,
                    **self._more,
                )

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

    async def check(self) -> None:
        """Is the bucket there, and may we list it? Raises S3Unavailable or S3Refused."""
        with self._named("LIST", ""):
            await self._client.list_objects_v2(Bucket=self._bucket, MaxKeys=1)

    @contextlib.contextmanager
    def _named(self, what: str, key: str) -> Any:
        """Turn the client's errors into ours."""
        place = f"{what} s3://{self._bucket}/{key}"
        try:
            yield
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            code = error.response.get("Error", {}).get("Code", "")
            if what in {"HEAD", "GET"} and status == 404 and code in {"404", "NoSuchKey", "NotFound"}:
                raise _NotFoundError from None
            if is_temporary(status, code):
                raise S3Unavailable(f"{place}: {status} {code}") from None
            message = error.response.get("Error", {}).get("Message", "")
            raise S3Refused(f"{place}: {status} {code} {message}".rstrip()) from None
        except NO_ANSWER as error:
            raise S3Unavailable(f"{place}: no answer ({type(error).__name__}: {error})") from None
        except BotoCoreError as error:  # no credentials, a parameter it would not send, …
            raise S3Refused(f"{place}: {type(error).__name__}: {error}") from None


def is_temporary(status: int, code: str) -> bool:
    """Whether an error answer says that the same may be had a moment later."""
    return status >= 500 or status in {408, 409, 429} or code in {"SlowDown", "RequestTimeout", "OperationAborted"}


class _Sent(io.BytesIO):
    """A body on its way. aiohttp asks for its buffer to learn its length; a plain BytesIO copies itself for that."""

    def getbuffer(self) -> memoryview:
        return memoryview(self.getvalue())


class _NotFoundError(HeadraceError):
    """The key isn't there."""


@contextlib.asynccontextmanager
async def open_store(
    settings: S3Settings, *, connections: int = 16, timeout_seconds: float = 60
) -> AsyncIterator[S3Store]:
    """A store for as long as the context lasts; at most `connections` requests side by side.

    Raises SettingsError where S3_CLIENT names a client that isn't installed.
    """
    own_endpoint = settings.aws_endpoint_url_s3 is not None
    path_style = own_endpoint if settings.s3_path_style is None else settings.s3_path_style
    session = get_session()
    config = AioConfig(
        retries={"total_max_attempts": 1, "mode": "standard"},
        connect_timeout=min(10.0, timeout_seconds),
        read_timeout=timeout_seconds,
        max_pool_connections=connections,
        s3={"addressing_style": "path" if path_style else "auto"},
        # Old stores know no trailing checksums; sha256 stands in each object's metadata either way.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    region = settings.aws_region or session.get_config_variable("region") or "us-east-1"
    async with session.create_client(
        "s3", region_name=region, endpoint_url=settings.aws_endpoint_url_s3, config=config
    ) as client:
        if settings.s3_client == "obstore":
            from headrace.s3_obstore import ObstoreStore

            yield ObstoreStore(
                client, settings.s3_bucket, session=session, connections=connections, timeout_seconds=timeout_seconds
            )
        else:
            yield S3Store(client, settings.s3_bucket, timeout_seconds=timeout_seconds, acl=settings.s3_acl)
