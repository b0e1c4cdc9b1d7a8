"""Who may publish, as settings tell it: tokens and webhooks' secrets, from variables and files."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from producer.tokens import Caller, parse_tokens, plain_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from pydantic import SecretStr

MIN_SECRET_LENGTH: Final = 16
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """Callers by their tokens' digests, and secrets of signatures. It has no repr: it stays out of logs."""

    tokens: dict[bytes, Caller]
    github: tuple[bytes, ...] = ()
    stripe: tuple[bytes, ...] = ()

    @property
    def any(self) -> bool:
        return bool(self.tokens or self.github or self.stripe)


def read_credentials(
    *,
    token: SecretStr,
    tokens: SecretStr,
    tokens_file: Path | None,
    github: SecretStr,
    github_file: Path | None,
    stripe: SecretStr,
    stripe_file: Path | None,
) -> Credentials:
    """Raises ValueError that tells all that is wrong, and nothing of what is secret."""
    wrong: list[str] = []

    def tried(name: str, read: Callable[[], Iterable[Found]]) -> list[Found]:
        try:
            return list(read())
        except (OSError, UnicodeDecodeError) as error:
            wrong.append(f"{name} can't be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}")
        except ValueError as error:
            wrong.append(f"{name} {error}")
        return []

    plain = token.get_secret_value()
    entries = [
        *tried("HTTP_TOKENS", lambda: parse_tokens(_parts(tokens)).items()),
        *tried("HTTP_TOKENS_FILE", lambda: parse_tokens(_lines(tokens_file)).items()),
        *tried("HTTP_TOKEN", lambda: plain_token(plain).items() if plain else ()),
    ]
    found = {
        "github": _parts(github) + tried("HTTP_GITHUB_SECRET_FILE", lambda: _lines(github_file)),
        "stripe": _parts(stripe) + tried("HTTP_STRIPE_SECRET_FILE", lambda: _lines(stripe_file)),
    }
    for name, secrets in found.items():
        if any(len(secret) < MIN_SECRET_LENGTH for secret in secrets):
            wrong.append(f"HTTP_{name.upper()}_SECRET has one of fewer than {MIN_SECRET_LENGTH} characters")
    if wrong:
        raise ValueError("; ".join(wrong))
    signers = {name: tuple(secret.encode() for secret in secrets) for name, secrets in found.items()}
    return Credentials(dict(entries), **signers)


def _parts(value: SecretStr) -> list[str]:
    return [part.strip() for part in value.get_secret_value().split(",") if part.strip()]


def _lines(file: Path | None) -> list[str]:
    """A secret a line; empty ones, and those that begin with #, don't count."""
    if file is None:
        return []
    lines = (line.strip() for line in file.read_text("utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def is_loopback(host: str) -> bool:
    """Can only this machine reach it? A name other than localhost may be any address."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host.lower() == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
