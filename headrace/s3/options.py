"""What is sent along with each object, beside its bytes: encryption, tags, ACL, storage class, metadata of your own."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from headrace.objects import CONTROL_FOLDER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace.settings import S3Settings


@dataclass(frozen=True, slots=True)
class PutOptions:
    """The same for data, index, payload and gap objects.

    What lies in `_headrace/` (markers, the probe) gets all of it but the storage class: it is read at every takeover,
    and what lies in an archive's class can't be read.
    """

    parameters: Mapping[str, Any] = field(default_factory=dict)
    """PutObject's and CreateMultipartUpload's, as botocore names them."""
    storage_class: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    multipart_bytes: int = 0
    """Larger bodies go in parts; 0: none does."""
    actions: tuple[str, ...] = ()
    """What a policy has to grant beside s3:PutObject."""

    def sent_with(self, key: str) -> Mapping[str, Any]:
        """The parameters for one key."""
        if self.storage_class is None or f"{CONTROL_FOLDER}/" in key:
            return self.parameters
        return {**self.parameters, "StorageClass": self.storage_class}

    def in_parts(self, body: bytes) -> bool:
        return 0 < self.multipart_bytes < len(body)


def put_options(settings: S3Settings) -> PutOptions:
    """What the settings say. They have been validated."""
    tags = settings.pairs("s3_tags")
    parameters: dict[str, Any] = {}
    actions: list[str] = []
    if settings.s3_acl is not None:
        parameters["ACL"] = settings.s3_acl
        actions.append("s3:PutObjectAcl")
    if tags:
        parameters["Tagging"] = urlencode(tags)
        actions.append("s3:PutObjectTagging")
    if settings.s3_server_side_encryption is not None:
        parameters["ServerSideEncryption"] = settings.s3_server_side_encryption
        if settings.s3_server_side_encryption != "AES256":
            actions.append("kms:GenerateDataKey and kms:Decrypt on the key")
    if settings.s3_sse_kms_key_id is not None:
        parameters["SSEKMSKeyId"] = settings.s3_sse_kms_key_id
    if context := settings.pairs("s3_sse_kms_encryption_context"):
        parameters["SSEKMSEncryptionContext"] = base64.b64encode(json.dumps(context).encode()).decode()
    if settings.s3_bucket_key_enabled is not None:
        parameters["BucketKeyEnabled"] = settings.s3_bucket_key_enabled
    return PutOptions(
        parameters=parameters,
        storage_class=settings.s3_storage_class,
        tags=tags,
        metadata=settings.pairs("s3_metadata"),
        multipart_bytes=settings.s3_multipart_bytes,
        actions=tuple(actions),
    )
