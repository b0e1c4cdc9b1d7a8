"""Who may publish, and how much: tokens, signatures and rates, asked before a body is read and once more after."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from producer.errors import Kind, Problem
from producer.rates import Rates
from producer.signatures import GITHUB_HEADER, STRIPE_HEADER, BadSignature, check_github, check_stripe
from producer.tokens import Caller, Tokens, token_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.types import Scope

    from producer.credentials import Credentials
    from producer.settings import ProducerSettings


COLLECTION_PATH: Final = "/payloads"


class _Collection(msgspec.Struct):
    token: Any = None


_collection = msgspec.json.Decoder(_Collection)


class Visitor:
    """A request that was let in so far. Its body is to be shown by `check_signature`, whatever its form."""

    __slots__ = ("_access", "_caller", "_key", "_signature", "_topic")

    def __init__(self, access: Access, key: str, caller: Caller | None, signature: tuple[bytes, bytes] | None) -> None:
        self._access = access
        self._key = key
        self._caller = caller
        self._signature = signature
        self._topic: str | None = None

    def check_topic(self, topic: str) -> None:
        """May it publish there? Who is known by its body only is asked again then. Raises Problem."""
        self._topic = topic
        if self._caller is not None and not self._caller.may_publish_to(topic):
            raise Problem(Kind.FORBIDDEN, f"{self._caller.name} may not publish to topic {topic}.")

    def check_signature(self, body: bytes) -> None:
        """The body as it came, before anything is published. Raises Problem."""
        self._access.spend(self._key, len(body))
        if self._signature is not None:
            self._access.check_signature(*self._signature, body)

    def check_token(self, collection: bytes) -> None:
        """Who isn't known yet must be by the collection's own token. Raises Problem."""
        if self._caller is None:
            self._caller = self._access.known(_token_in(collection))
            if self._topic is not None:
                self.check_topic(self._topic)


class Access:
    """Decides by headers first, so that who shows nothing right is refused before anything of the body is held.

    A token in the Authorization header, a signature of the body, or the token in a collection: one of them must be
    right, and the first one that is shown counts. What is wrong and what is unknown get the same answer.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        own_topic: str,
        tolerance: float,
        rates: Rates | None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tokens = Tokens(credentials.tokens)
        self._signers: dict[bytes, tuple[bytes, ...]] = {
            header: secrets
            for header, secrets in ((GITHUB_HEADER, credentials.github), (STRIPE_HEADER, credentials.stripe))
            if secrets
        }
        self._nobody = None if credentials.any else Caller("anybody")
        self._webhooks = {header: Caller(header.decode(), frozenset({own_topic})) for header in self._signers}
        self._tolerance = tolerance
        self._rates = rates
        self._clock = clock
        self._monotonic = monotonic

    def admit(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Visitor:
        """Before the body is read; only a collection's may tell by itself who sends it. Raises Problem."""
        client = scope.get("client")
        key = f"address {client[0]}" if client else "address"
        caller, signature = self._nobody, None
        if caller is None:
            caller, signature = self._look(headers, collection=scope["path"] == COLLECTION_PATH)
            if caller is not None and signature is None:
                key = f"token {caller.name}"
        if self._rates is not None and (wait := self._rates.admit(key, self._monotonic())):
            raise Problem(
                Kind.TOO_MANY,
                "You have sent more than one caller may (RATE_REQUESTS_PER_SECOND, RATE_BYTES_PER_SECOND). Nothing was "
                "published.",
                retry_after=math.ceil(wait),
            )
        return Visitor(self, key, caller, signature)

    def spend(self, key: str, size: int) -> None:
        """So many bytes of a body came."""
        if self._rates is not None:
            self._rates.spend(key, self._monotonic(), size)

    def known(self, token: bytes | None) -> Caller:
        """Whose token that is. Raises Problem where it is none's."""
        if token is None:
            raise Problem(Kind.NO_CREDENTIALS, self._ways(collection=True))
        caller = self._tokens.find(token)
        if caller is None:
            raise Problem(Kind.BAD_CREDENTIALS, "The token is not one that is taken here.")
        return caller

    def check_signature(self, name: bytes, value: bytes, body: bytes) -> None:
        """Raises Problem where that header isn't the body's."""
        secrets = self._signers[name]
        try:
            if name == GITHUB_HEADER:
                check_github(secrets, value, body)
            else:
                check_stripe(secrets, value, body, now=self._clock(), tolerance=self._tolerance)
        except BadSignature as bad:
            raise Problem(Kind.BAD_CREDENTIALS, str(bad)) from None

    def _look(
        self, headers: Mapping[bytes, bytes], *, collection: bool
    ) -> tuple[Caller | None, tuple[bytes, bytes] | None]:
        authorization = headers.get(b"authorization")
        if authorization is not None and self._tokens:
            token = token_of(authorization)
            if token is None:
                raise Problem(Kind.BAD_CREDENTIALS, "The Authorization header is not Bearer TOKEN.")
            return self.known(token), None
        for name, caller in self._webhooks.items():
            if name in headers:
                return caller, (name, headers[name])
        if not (collection and self._tokens):
            raise Problem(Kind.NO_CREDENTIALS, self._ways(collection=False))
        return None, None

    def _ways(self, *, collection: bool) -> str:
        ways = []
        if self._tokens:
            ways.append("send Authorization: Bearer TOKEN" + (', or {"token": …, "data": […]}' if collection else ""))
        ways += [f"sign the body ({name.decode().title()})" for name in self._signers]
        return f"Nothing here says who you are: {', or '.join(ways)}."


def _token_in(body: bytes) -> bytes | None:
    """A collection's own token. What is no JSON, or has none, is told the same as one without it."""
    try:
        token = _collection.decode(body).token
    except (msgspec.DecodeError, RecursionError):
        return None
    return token.encode(errors="replace") if isinstance(token, str) and token else None


def access_for(settings: ProducerSettings) -> Access | None:
    """None where everybody may publish as much as they like: the plain path then asks nothing."""
    credentials = settings.credentials()
    limited = settings.rate_requests_per_second is not None or settings.rate_bytes_per_second is not None
    if not (credentials.any or limited):
        return None
    return Access(
        credentials,
        own_topic=settings.kafka_topic,
        tolerance=settings.http_signature_seconds,
        rates=Rates(settings.rate_requests_per_second, settings.rate_bytes_per_second) if limited else None,
    )
