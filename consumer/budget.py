"""How many bytes may be on their way from Kafka to S3, with high and low water. Pure."""

from __future__ import annotations


class Budget:
    """Counts bytes held. `short` turns true at high water and false again at low water, so that nothing flutters."""

    def __init__(self, high: int) -> None:
        self.high = high
        self.low = high * 3 // 4
        self.held = 0
        self.short = False

    def add(self, size: int) -> None:
        """Take or, with a negative size, give back."""
        self.held += size
        assert self.held >= 0, "more bytes given back than taken"
        if self.held >= self.high:
            self.short = True
        elif self.held <= self.low:
            self.short = False

    @property
    def excess(self) -> int:
        """Bytes that have to go before partitions may be fetched again."""
        return max(0, self.held - self.low) if self.short else 0
