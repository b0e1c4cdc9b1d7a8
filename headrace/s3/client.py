"""A client by the settings and the AWS chain."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ConfigNotFound, ConfigParseError, InvalidConfigError, ProfileNotFound

from headrace.errors import SettingsError
from headrace.s3.options import put_options
from headrace.s3.parts import ask_for_long_ones
from headrace.s3.port import S3Refused, S3Unavailable
from headrace.s3.store import NO_ANSWER, S3Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from headrace.settings import S3Settings


@contextlib.asynccontextmanager
async def open_store(
    settings: S3Settings, *, connections: int = 16, timeout_seconds: float = 60
) -> AsyncIterator[S3Store]:
    """A store for as long as the context lasts; at most `connections` requests side by side.

    Raises SettingsError where S3_CLIENT names a client that isn't installed or the AWS chain can't be read, S3Refused
    or S3Unavailable where the chain's credentials can't be had now.
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
        request_checksum_calculation=settings.aws_request_checksum_calculation,
        response_checksum_validation="when_required",
    )
    authority = None if settings.aws_ca_bundle is None else str(settings.aws_ca_bundle)
    async with contextlib.AsyncExitStack() as stack:
        try:
            region = settings.aws_region or session.get_config_variable("region") or "us-east-1"
            client = await stack.enter_async_context(
                session.create_client(
                    "s3", region_name=region, endpoint_url=settings.aws_endpoint_url_s3, config=config, verify=authority
                )
            )
        except (ProfileNotFound, ConfigParseError, ConfigNotFound, InvalidConfigError, ValueError) as error:
            raise SettingsError(f"The AWS settings can't be started with: {error}") from None
        except NO_ANSWER as error:
            raise S3Unavailable(f"No credentials yet: {type(error).__name__}: {error}") from None
        except BotoCoreError as error:
            raise S3Refused(f"No credentials: {error}", type(error).__name__) from None
        client.meta.events.register_last("before-call.s3", ask_for_long_ones)
        options = put_options(settings)
        if settings.s3_client == "obstore":
            from headrace.s3_obstore import ObstoreStore

            yield ObstoreStore(
                client,
                settings.s3_bucket,
                session=session,
                connections=connections,
                timeout_seconds=timeout_seconds,
                options=options,
                authority=authority,
                checksums=settings.aws_request_checksum_calculation == "when_supported",
            )
        else:
            yield S3Store(client, settings.s3_bucket, timeout_seconds=timeout_seconds, options=options)
