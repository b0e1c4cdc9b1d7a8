"""How many bytes may be on their way from Kafka to S3, with high and low water, and each partition's share. Pure."""

from __future__ import annotations

from typing import Final

SHARE: Final = 2
"""A partition may hold so many times what is free: each leaves a third of what it found, however many came before."""


class Budget:
    """Counts bytes held. `short` turns true at high water and false again at low water, so that nothing flutters.

    What is `stuck` (S3 does not take it) counts as held, but nobody waits for it to go: low water is that of the rest.
    """

    def __init__(self, high: int) -> None:
        self.high = high
        self.held = 0
        self.stuck = 0
        self.short = False

    @property
    def low(self) -> int:
        return self.stuck + max(0, self.high - self.stuck) * 3 // 4

    @property
    def free(self) -> int:
        return max(0, self.high - self.held)

    def add(self, size: int) -> None:
        """Take or, with a negative size, give back."""
        self.held += size
        assert self.held >= 0, "more bytes given back than taken"
        self._judge()

    def set_stuck(self, size: int) -> None:
        """So much of what is held is not leaving."""
        self.stuck = size
        self._judge()

    def _judge(self) -> None:
        if self.held >= self.high:
            self.short = True
        elif self.held <= self.low:
            self.short = False

    @property
    def excess(self) -> int:
        """Bytes above low water: these should be leaving, so that high water is not reached."""
        return max(0, self.held - self.low)

    @property
    def crowded(self) -> bool:
        """Could any partition be beyond its share?"""
        return self.held * 2 > self.high

    def beyond_share(self, own: int, *, resting: bool) -> bool:
        """Does a partition with `own` bytes hold more than its share? One that rests already goes on at half of it."""
        return own > self.free * (1 if resting else SHARE)
