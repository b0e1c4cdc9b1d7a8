"""Tokens that callers show, and what each may do. Only their digests are kept. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

MIN_TOKEN_LENGTH: Final = 16
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST: Final = re.compile(r"[0-9a-fA-F]{64}")
_TOPIC: Final = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_MARK: Final = "hr_"  # so that tools which look for secrets in the wrong place can know ours


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `topics` are those that it may publish to; None: all that are taken here."""

    name: str
    topics: frozenset[str] | None = None

    def may_publish_to(self, topic: str) -> bool:
        return self.topics is None or topic in self.topics


class Tokens:
    """Looks callers up by what they show.

    The look-up is by the SHA-256 of what was shown: how long it takes depends on digests that nobody can steer, so it
    tells nothing about a token, and as little about whether a near one is known.
    """

    def __init__(self, callers: dict[bytes, Caller]) -> None:
        self._callers = callers

    def __len__(self) -> int:
        return len(self._callers)

    def find(self, token: bytes) -> Caller | None:
        shown = hashlib.sha256(token).digest()
        known = next(iter(self._callers.keys() & {shown}), b"")
        return self._callers[known] if hmac.compare_digest(known, shown) else None


def parse_tokens(entries: Iterable[str]) -> dict[bytes, Caller]:
    """Callers by digest, from `NAME:SHA256` or `NAME:SHA256:TOPIC|TOPIC`. A name may have several tokens.

    Raises ValueError that names an entry by its place, never by what stands there: it may be a token by mistake.
    """
    callers: dict[bytes, Caller] = {}
    for number, entry in enumerate(entries, 1):
        name, _, rest = entry.partition(":")
        digest, has_topics, topics = rest.partition(":")
        names = topics.split("|")
        if not (_NAME.fullmatch(name) and _DIGEST.fullmatch(digest)) or (
            has_topics and not all(map(_TOPIC.fullmatch, names))
        ):
            raise ValueError(
                f"entry {number} is not NAME:SHA256 or NAME:SHA256:TOPIC|TOPIC, as `headrace token NAME` makes it"
            )
        key = bytes.fromhex(digest)
        if key in callers:
            raise ValueError(f"entry {number} has the same token as one before it")
        callers[key] = Caller(name, frozenset(names) if has_topics else None)
    return callers


def plain_token(token: str) -> dict[bytes, Caller]:
    """The one token of a small installation, told as it is. Raises ValueError when it could be guessed."""
    if len(token) < MIN_TOKEN_LENGTH or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            f"has fewer than {MIN_TOKEN_LENGTH} characters, or others than ASCII letters, digits and marks"
        )
    return {hashlib.sha256(token.encode()).digest(): Caller("default")}


def new_token() -> str:
    """256 bits that nobody can guess: a digest of them needs no salt and no slow hash."""
    return _MARK + secrets.token_urlsafe(32)


def entry_for(name: str, token: str, topics: Iterable[str]) -> str:
    """What HTTP_TOKENS says of it. Raises ValueError for names that can't stand there."""
    entry = ":".join([name, hashlib.sha256(token.encode()).hexdigest(), *(["|".join(topics)] if topics else [])])
    parse_tokens([entry])
    return entry


def token_of(authorization: bytes) -> bytes | None:
    """What an Authorization header shows: a bearer token, or the password of Basic, for senders that know only that."""
    scheme, _, value = authorization.partition(b" ")
    value = value.strip()
    match scheme.lower():
        case b"bearer" if value:
            return value
        case b"basic":
            try:
                return base64.b64decode(value, validate=True).partition(b":")[2] or None
            except binascii.Error:
                return None
        case _:
            return None
