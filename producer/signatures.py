"""Webhooks that sign what they send, as GitHub and as Stripe do. Pure."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

GITHUB_HEADER: Final = b"x-hub-signature-256"
STRIPE_HEADER: Final = b"stripe-signature"
_TIME: Final = re.compile(rb"\d{1,12}")
_MAX_SIGNATURES: Final = 8  # Stripe sends two while a secret is rolled; who sends a thousand wants us to compute


class BadSignature(Exception):
    """The message says what may be told: nothing of secrets, and of time only to who signed rightly."""


def check_github(secrets: Sequence[bytes], header: bytes, body: bytes) -> None:
    """`X-Hub-Signature-256: sha256=HEX`, of the body. It has no time in it. Raises BadSignature."""
    scheme, _, shown = header.strip().partition(b"=")
    if scheme != b"sha256" or not _matches(secrets, body, [shown]):
        raise BadSignature("The signature does not fit the body.")


def check_stripe(secrets: Sequence[bytes], header: bytes, body: bytes, *, now: float, tolerance: float) -> None:
    """`Stripe-Signature: t=SECONDS,v1=HEX,…`, of the time and the body; any of several v1 will do.

    `now` in seconds of the epoch; what was signed more than `tolerance` seconds before or after is refused, so that
    what somebody overheard can't be sent again for ever. Raises BadSignature.
    """
    signed_at, shown = b"", []
    for part in header.split(b","):
        name, _, value = part.strip().partition(b"=")
        if name == b"t":
            signed_at = value
        elif name == b"v1":
            shown.append(value)
    if not _TIME.fullmatch(signed_at) or not _matches(secrets, signed_at + b"." + body, shown[:_MAX_SIGNATURES]):
        raise BadSignature("The signature does not fit the body.")
    off = now - int(signed_at)
    if abs(off) > tolerance:
        when = f"{off:.0f} s ago" if off > 0 else f"{-off:.0f} s ahead of the clock here"
        raise BadSignature(f"The signature fits, but was made {when}; {tolerance:g} s are allowed.")


def _matches(secrets: Sequence[bytes], message: bytes, shown: Sequence[bytes]) -> bool:
    """Is one of them by one of the secrets? All are compared, each in constant time."""
    found = False
    for secret in secrets:
        right = hmac.new(secret, message, hashlib.sha256).hexdigest().encode()
        for one in shown:
            found |= hmac.compare_digest(right, one.lower())
    return found
