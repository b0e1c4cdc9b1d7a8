"""S3_CLIENT=obstore: the port with PUTs sent by obstore (Rust's object_store), at a quarter of the CPU time.

Only PUT is worth it: an object a payload makes millions of them, and a few of all else. HEAD, GET, LIST and DELETE stay
aiobotocore's, so that both clients read alike; endpoint, addressing and credentials are what aiobotocore has found, so
that the AWS chain means one thing.
"""

from __future__ import annotations

import asyncio
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit

from botocore.exceptions import NoCredentialsError

from headrace.errors import SettingsError
from headrace.s3.port import S3Refused, S3Unavailable
from headrace.s3.store import UNTRUSTED, S3Store, is_temporary

if TYPE_CHECKING:
    from collections.abc import Mapping

    from obstore.store import ClientConfig, S3Config, S3Credential
    from obstore.store import S3Store as Puts

    from headrace.s3.options import PutOptions

EncryptionOption = Literal["server_side_encryption", "sse_kms_key_id", "sse_bucket_key_enabled"]

# One thread beside Python's: two would wait for its lock and wake each other, at a quarter more CPU time a PUT. Read by
# tokio when its first call is made.
os.environ.setdefault("TOKIO_WORKER_THREADS", "1")

CREDENTIALS_SECONDS: Final = 60.0
"""So long they are used before botocore is asked for them again, which renews those that expire minutes ahead."""

ENCRYPTION: Final[Mapping[str, EncryptionOption]] = {
    "ServerSideEncryption": "server_side_encryption",
    "SSEKMSKeyId": "sse_kms_key_id",
    "BucketKeyEnabled": "sse_bucket_key_enabled",
}
"""obstore's names for them."""
_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>([^<]*)</Code>")
_MESSAGE: Final = re.compile(r"<Message>([^<]*)</Message>")
_PROBE: Final = "key"


class ObstoreStore(S3Store):
    """S3Store with another PUT. Its errors are named alike."""

    def __init__(
        self,
        client: Any,
        bucket: str,
        *,
        session: Any,
        connections: int,
        timeout_seconds: float,
        options: PutOptions,
        authority: str | None = None,
        checksums: bool = False,
    ) -> None:
        """`authority`: PEM file of certificates, in place of the chain's. `checksums`: sent with each PUT."""
        super().__init__(client, bucket, timeout_seconds=timeout_seconds, options=options)
        try:
            import obstore  # noqa: F401
        except ImportError:
            raise SettingsError(
                "S3_CLIENT=obstore needs the package obstore: pip install 'headrace[obstore]', or unset S3_CLIENT."
            ) from None
        self._session = session
        self._connections = connections
        self._authority = authority
        self._checksums = checksums
        self._tags = dict(options.tags) or None
        self._puts: Puts | None = None

    async def put(self, key: str, body: bytes, *, metadata: Mapping[str, str], content_type: str) -> None:
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        options = self._options
        strange = "/." in key or "//" in key or "\\" in key or key[0] in "./" or key[-1] == "/"
        if strange or options.in_parts(body):
            # object_store would send such a key otherwise than it is, or not at all. Parts are sent in one way only.
            return await super().put(key, body, metadata=metadata, content_type=content_type)
        for name, value in metadata.items():
            if not (name.isascii() and name.replace("-", "").isalnum() and value.isascii() and value.isprintable()):
                # Rust would send other letters raw, and panic over control characters.
                raise S3Refused(f"PUT s3://{self._bucket}/{key}: metadata {name!r} is not printable ASCII")
        if self._puts is None:
            with self._named("PUT", key):
                self._puts = await self._open()
        attributes = {**options.metadata, **metadata, "Content-Type": content_type}
        if "StorageClass" in (sent := options.sent_with(key)):
            attributes["Storage-Class"] = sent["StorageClass"]
        try:
            await self._puts.put_async(key, body, attributes=attributes, tags=self._tags, use_multipart=False)
        except (BaseError, FileNotFoundError, ValueError) as error:
            text = str(error).partition("\n\nDebug source")[0]
            told = _STATUS.search(text)
            status, code = int(told[1]) if told else 0, _found(_CODE, text)
            place = f"PUT s3://{self._bucket}/{key}"
            if status == 0 and not isinstance(error, PermissionDeniedError | UnauthenticatedError | ValueError):
                hint = UNTRUSTED if "InvalidCertificate" in str(error) else ""
                raise S3Unavailable(f"{place}: no answer ({text}){hint}") from None
            if is_temporary(status, code):
                raise S3Unavailable(f"{place}: {status} {code}".rstrip()) from None
            message = _found(_MESSAGE, text) if status else text
            raise S3Refused(f"{place}: {status or ''} {code} {message}".rstrip(), code) from None

    async def _open(self) -> Puts:
        """Raises botocore's errors, where there are no credentials for instance."""
        from obstore.store import S3Store as Puts

        url = urlsplit(
            await self._client.generate_presigned_url("put_object", Params={"Bucket": self._bucket, "Key": _PROBE})
        )
        credentials = await self._session.get_credentials()
        if credentials is None:
            raise NoCredentialsError

        async def provide() -> S3Credential:
            now = await credentials.get_frozen_credentials()
            return {
                "access_key_id": now.access_key,
                "secret_access_key": now.secret_key,
                "token": now.token,
                "expires_at": datetime.now(UTC) + timedelta(seconds=CREDENTIALS_SECONDS),
            }

        options: ClientConfig = {
            "allow_http": url.scheme == "http",
            "timeout": timedelta(seconds=self._timeout_seconds),
            "connect_timeout": timedelta(seconds=min(10.0, self._timeout_seconds)),
            "pool_max_idle_per_host": str(self._connections),
        }
        if authority := self._authority or self._session.get_config_variable("ca_bundle"):
            options["root_certificate"] = await asyncio.to_thread(Path(authority).read_bytes)
        encryption: S3Config = {}
        for name, ours in ENCRYPTION.items():
            if name in self._options.parameters:
                encryption[ours] = self._options.parameters[name]
        if self._checksums:
            encryption["checksum_algorithm"] = "SHA256"
        return Puts(
            self._bucket,
            # This spelling of `endpoint`, or else the environment's would come before it.
            aws_endpoint_url_s3=f"{url.scheme}://{url.netloc}",
            virtual_hosted_style_request=not url.path.startswith(f"/{self._bucket}/"),
            region=self._client.meta.region_name,
            credential_provider=provide,
            client_options=options,
            retry_config={"max_retries": 0},
            config=encryption,
        )


def _found(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[1] if match else ""
