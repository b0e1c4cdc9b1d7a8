"""What Kafka's log has ever held: read as it comes, so that it is known even after Kafka has dropped it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiokafka import TopicPartition

PAYLOAD = re.compile(rb'\{"attempt":(\d+),"n":(\d+),"of":(\d+),')
NATIVE = re.compile(rb"native-(\d+)")


def digest(
    timestamp: int, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]
) -> bytes:
    """Of all that a record is, but its offset."""
    parts = [str(timestamp).encode(), key, value]
    for name, content in headers:
        parts += [name.encode(), content]
    hashed = hashlib.blake2b(digest_size=12)
    for part in parts:
        hashed.update(b"-" if part is None else b"%d:%b" % (len(part), part))
    return hashed.digest()


@dataclass
class Placed:
    """Where the payloads of one attempt stand: (partition, offset, n), in the log's order."""

    of: int
    places: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def whole_and_together(self) -> bool:
        """All of them, once, in their order, next to each other in one partition."""
        partition, first, _ = self.places[0]
        return self.places == [(partition, first + n, n) for n in range(self.of)]


class Ledger:
    """Reads a topic from its beginning to its growing end, with a client of its own."""

    def __init__(self, options: dict[str, Any], partitions: Sequence[TopicPartition]) -> None:
        self._options = options
        self._partitions = partitions
        self.digests: dict[int, list[bytes]] = {tp.partition: [] for tp in partitions}
        """Of each partition, by offset. There are no transactions here, so that every offset is a record."""
        self.attempts: dict[int, Placed] = {}
        self.natives: Counter[int] = Counter()
        self.complaints: list[str] = []

    def end(self, partition: int) -> int:
        """The offset behind the last one that was read."""
        return len(self.digests[partition])

    def ends(self) -> dict[int, int]:
        return {partition: len(digests) for partition, digests in self.digests.items()}

    async def read(self) -> None:
        """Until cancelled, whatever happens to Kafka."""
        while True:
            consumer = AIOKafkaConsumer(**self._options, auto_offset_reset="none", metadata_max_age_ms=5000)
            try:
                async with asyncio.timeout(20):
                    await consumer.start()
                consumer.assign(list(self._partitions))
                for tp in self._partitions:
                    consumer.seek(tp, self.end(tp.partition))
                while True:
                    self._take(await consumer.getmany(timeout_ms=200))
            except (KafkaError, OSError):  # TimeoutError is an OSError
                await asyncio.sleep(0.2)
            finally:
                with contextlib.suppress(KafkaError, OSError):
                    await consumer.stop()

    def _take(self, batches: dict[TopicPartition, list[Any]]) -> None:
        for tp, records in batches.items():
            digests = self.digests[tp.partition]
            for record in records:
                if record.offset != len(digests):
                    self.complaints.append(f"Kafka gave offset {record.offset} of {tp}, {len(digests)} was next")
                    continue
                digests.append(digest(record.timestamp, record.key, record.value, record.headers))
                if record.key is not None and (found := NATIVE.match(record.key)):
                    self.natives[int(found[1])] += 1
                elif record.value is not None and (found := PAYLOAD.match(record.value)):
                    attempt, n, of = map(int, found.groups())
                    placed = self.attempts.setdefault(attempt, Placed(of))
                    placed.places.append((tp.partition, record.offset, n))
                else:
                    self.complaints.append(f"nobody sent {record}")
