"""What a consumer asks of S3 before it takes partitions: is the bucket there, and may we list, write and read?

Three requests. The object that is written has a fixed name in `{prefix}/_headrace/`, beside the folders of markers and
in none of them, so that it is one for ever and no LIST of markers has it. It is sent with all that objects are sent
with. Nothing is deleted: that right is not needed, and need not be given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from headrace.objects import CONTROL_FOLDER
from headrace.s3.options import put_options
from headrace.s3.port import S3Refused

if TYPE_CHECKING:
    from headrace.s3.port import ObjectStore
    from headrace.settings import S3Settings

NAME: Final = "~probe"
"""A letter that no topic's name may have: some stores keep keys as files, where a folder can't bear a file's name."""
BODY: Final = b'{"about":"headrace writes and reads this object at each start, to see whether it may."}\n'

STRANGERS: Final = frozenset(
    {
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "TokenRefreshRequired",
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "NoAuthTokenError",
    }
)
"""What is said to whoever isn't known, whatever they ask."""
ELSEWHERE: Final = frozenset(
    {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)
HOPELESS: Final = STRANGERS | ELSEWHERE | {"NoSuchBucket"}
"""After these no other question is worth asking."""


def probe_key(prefix: str) -> str:
    return f"{prefix}/{CONTROL_FOLDER}/{NAME}" if prefix else f"{CONTROL_FOLDER}/{NAME}"


async def missing_rights(store: ObjectStore, settings: S3Settings) -> list[str]:
    """A sentence for each thing that S3 refuses, with what to do about it; none when all is well.

    Raises S3Unavailable.
    """
    bucket, prefix, key = settings.s3_bucket, settings.s3_prefix, probe_key(settings.s3_prefix)
    place = f"s3://{bucket}/{prefix}"
    below = f"arn:aws:s3:::{bucket}/{prefix}{'/' if prefix else ''}*"
    written = False
    found: list[str] = []
    try:
        async for _ in store.list(key):
            pass
    except S3Refused as error:
        found.append(explain(error, f"list {place}", f"s3:ListBucket on arn:aws:s3:::{bucket}", bucket))
        if error.code in HOPELESS:
            return found
    try:
        await store.put(key, BODY, metadata={}, content_type="application/json")
        written = True
    except S3Refused as error:
        actions = " and ".join(("s3:PutObject", *put_options(settings).actions))
        found.append(explain(error, f"write below {place}", f"{actions} on {below}", bucket))
        if error.code in HOPELESS:
            return found
    try:
        if await store.get(key) is None and written:
            found.append(
                f"s3://{bucket}/{key} was written, and is not there to be read: headrace needs a store that shows at "
                "once what was put."
            )
    except S3Refused as error:
        found.append(explain(error, f"read below {place}", f"s3:GetObject on {below}", bucket))
    return found


def explain(error: S3Refused, what: str, grant: str, bucket: str) -> str:
    """What is to be done about a refusal, and what the store said."""
    if error.code == "NoSuchBucket":
        todo = f"There is no bucket {bucket}. Create it, or set another S3_BUCKET."
    elif error.code in STRANGERS:
        todo = (
            "S3 does not take these credentials. Look at AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or "
            "the role."
        )
    elif error.code in ELSEWHERE:
        todo = f"The bucket {bucket} is in another region. Set AWS_REGION."
    elif error.code == "NotImplemented":
        todo = f"This S3 server can't {what} as the settings (S3_…) ask. Unset what it can't."
    else:
        todo = f"S3 refuses to {what}. Grant {grant}."
    return f"{todo} ({error})"
