"""How many payloads a request may have, and how long each may be. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from producer.errors import Kind, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class PayloadLimits:
    """None: no limit but those that the body has."""

    most: int | None
    longest: int | None

    def check(self, payloads: Sequence[bytes | None]) -> None:
        """Raises Problem when there are too many, or one is too long."""
        if self.most is not None and len(payloads) > self.most:
            raise Problem(
                Kind.TOO_LONG,
                f"The request has {len(payloads)} payloads, and {self.most} are taken (MAX_PAYLOADS). Send fewer in a "
                "request.",
                limit=self.most,
            )
        if self.longest is None:
            return
        longest = self.longest
        index = next((index for index, payload in enumerate(payloads) if len(payload or b"") > longest), None)
        if index is None:
            return
        raise Problem(
            Kind.TOO_LONG,
            f"Payload {index} (counted from 0) has more bytes than the {longest} that are taken (MAX_PAYLOAD_LENGTH).",
            index=index,
            limit=longest,
        )


def payload_limits(most: int | None, longest: int | None) -> PayloadLimits | None:
    """None where there is nothing to check: the plain path then asks nothing."""
    return None if most is None and longest is None else PayloadLimits(most, longest)
