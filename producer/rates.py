"""How much one caller may send: requests and bytes a second, with a second's worth in hand. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

MAX_CALLERS: Final = 10_000  # addresses come and go; who was not seen for longest starts anew


class Bucket:
    """Fills with `rate` units a second up to one second's worth, at least one unit; may be overdrawn once.

    So a body's bytes may be taken after it came, and the debt is waited for.
    """

    __slots__ = ("_at", "_left", "_most", "_rate")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._most = self._left = max(rate, 1.0)
        self._at = now

    def wait(self, now: float, units: float) -> float:
        """Seconds until `units` may be taken, 0 when now. Takes nothing."""
        self._fill(now)
        missing = min(units, self._most) - self._left
        return missing / self._rate if missing > 0 else 0.0

    def take(self, now: float, units: float) -> None:
        self._fill(now)
        self._left -= units

    def _fill(self, now: float) -> None:
        self._left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now


class Rates:
    """A pair of buckets for each caller: requests and bytes, of which either may be unlimited (None)."""

    def __init__(self, requests: float | None, byte_rate: float | None) -> None:
        self._requests = requests
        self._bytes = byte_rate
        self._callers: OrderedDict[str, tuple[Bucket | None, Bucket | None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._callers)

    def admit(self, caller: str, now: float) -> float:
        """Takes a request; or, where that would be too many, the seconds to wait, and takes nothing."""
        requests, size = self._of(caller, now)
        wait = max(requests.wait(now, 1) if requests else 0.0, size.wait(now, 1) if size else 0.0)
        if not wait and requests:
            requests.take(now, 1)
        return wait

    def spend(self, caller: str, now: float, size: int) -> None:
        """So many bytes of a body came: they are taken, if need be from what comes later."""
        _, bucket = self._of(caller, now)
        if bucket:
            bucket.take(now, size)

    def _of(self, caller: str, now: float) -> tuple[Bucket | None, Bucket | None]:
        found = self._callers.get(caller)
        if found is None:
            found = self._callers[caller] = (
                None if self._requests is None else Bucket(self._requests, now),
                None if self._bytes is None else Bucket(self._bytes, now),
            )
            if len(self._callers) > MAX_CALLERS:
                self._callers.popitem(last=False)
        else:
            self._callers.move_to_end(caller)
        return found
