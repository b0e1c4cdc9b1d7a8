"""The S3 port and its adapter on aiobotocore: a few calls, and errors named by what is to be done about them."""

from headrace.s3.client import open_store
from headrace.s3.port import (
    ListedObject,
    ObjectStore,
    S3Refused,
    S3Unavailable,
    StoredObject,
    UnfinishedUpload,
    Uploads,
)
from headrace.s3.store import S3Store

__all__ = [
    "ListedObject",
    "ObjectStore",
    "S3Refused",
    "S3Store",
    "S3Unavailable",
    "StoredObject",
    "UnfinishedUpload",
    "Uploads",
    "open_store",
]
