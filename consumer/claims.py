"""The claims of one partition: which chunks may be uploaded, and what the group's next offset commit says.

The protocol (ARCHITECTURE.md): a chunk's end is *claimed* in the metadata of the group's offset commit before its
upload may start; the commit's offset is the durable watermark, below which everything is stored. Whoever takes the
partition over reads both, and cuts the claimed chunks again at the very same offsets. Everything here is pure.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from headrace.errors import HaltError

if TYPE_CHECKING:
    from consumer.chunk import Cargo
    from headrace.objects import Range

VERSION: Final = "headrace/1"
MAX_METADATA_BYTES: Final = 4096
"""The brokers' default of offset.metadata.max.bytes."""


class ClaimsUnreadable(HaltError):
    """The committed metadata isn't ours, or of a newer version. Going on would risk duplicates."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit says of one partition. `ends` are the claims: chunks that follow each other from `start`.

    `durable` is the commit's offset. [start, durable) is known to hold no record: it belongs to the next chunk.
    While `durable` is below `fill_until`, objects may already be there beyond the claims: each new owner must LIST.
    """

    durable: int
    start: int
    ends: tuple[int, ...]
    fill_until: int
    layout: str
    topic_id: str

    @property
    def last_end(self) -> int:
        return self.ends[-1] if self.ends else self.start

    def encode(self) -> str:
        """The metadata string: ASCII, ends as deltas, so that 64 claims of any size stay well below 4,096 bytes."""
        deltas, last = [], self.start
        for end in self.ends:
            deltas.append(str(end - last))
            last = end
        claims = ",".join(deltas) or "-"
        return f"{VERSION} {self.layout} {self.topic_id} {self.durable} {self.start} {self.fill_until} {claims}"


def decode(offset: int, metadata: str | None) -> Committed | None:
    """Read a commit back. None means "no claims": nothing is committed, or another tool moved the offset.

    A tool that moves an offset may drop our metadata or carry it along; the `durable` repeated inside tells.
    Raises ClaimsUnreadable where the metadata is somebody else's or of a version that isn't known here.
    """
    if offset < 0 or not metadata:
        return None
    parts = metadata.split(" ")
    if parts[0] != VERSION or len(parts) != 7:
        raise ClaimsUnreadable(
            f"The group's commit at offset {offset} carries metadata that this version can't read: {metadata[:80]!r}. "
            f"It was written by a newer headrace or by another program. Run the version that wrote it, "
            f"or let `headrace claims drop` drop it."
        )
    _, layout, topic_id, durable, start, fill_until, claims = parts
    try:
        last, ends = int(start), []
        for delta in claims.split(",") if claims != "-" else ():
            if int(delta) <= 0:
                raise ValueError(delta)
            last += int(delta)
            ends.append(last)
        committed = Committed(int(durable), int(start), tuple(ends), int(fill_until), layout, topic_id)
    except ValueError:
        raise ClaimsUnreadable(
            f"The group's commit at offset {offset} carries damaged claims: {metadata[:80]!r}."
        ) from None
    if committed.durable != offset or committed.start > offset or (ends and ends[0] < offset):
        return None
    return committed


class ChunkState(enum.Enum):
    """CLOSED -> CLAIMED (Kafka acknowledged the claim) -> STORED (S3 has all its objects)."""

    CLOSED = "closed"
    CLAIMED = "claimed"
    STORED = "stored"


@dataclass(slots=True, eq=False)
class ClosedChunk:
    """A chunk with its final range. `cargo` is what there is to upload; None when it is stored already."""

    offsets: Range
    cargo: Cargo | None
    state: ChunkState = field(default=ChunkState.CLOSED)


@dataclass(frozen=True, slots=True)
class Plan:
    """One partition's part of a commit: what it will say, and the chunks it claims."""

    committed: Committed
    chunks: tuple[ClosedChunk, ...]


class Claims:
    """The chunks of one partition that aren't settled, in order, and what is known to be committed.

    Caller: the partition's lane. One plan may be open at a time: `acknowledged` or `refused` ends it.
    """

    def __init__(self, committed: Committed, *, known: bool, most: int) -> None:
        """`known`: Kafka has this very commit already. `most`: claims in flight at most."""
        self._committed = committed if known else None
        self._layout = committed.layout
        self.topic_id = committed.topic_id
        self._start = committed.start
        self._durable = committed.durable
        self._fill_until = committed.fill_until
        self._most = most
        self._chunks: deque[ClosedChunk] = deque()
        self._inherited = deque(committed.ends)
        """Claims of a former owner whose chunks aren't cut again yet: every commit repeats them until they are."""
        self._claimed_end = committed.last_end
        """Up to here Kafka has claims. No commit may say less: an upload of theirs may land at any time."""
        self._too_large: Committed | None = None
        self._open: Plan | None = None

    @property
    def last_end(self) -> int:
        """Where the next chunk starts."""
        return self._chunks[-1].offsets.end if self._chunks else self._start

    @property
    def durable(self) -> int:
        """The watermark as Kafka has acknowledged it; -1 before the first acknowledgement."""
        return -1 if self._committed is None else self._committed.durable

    @property
    def unsettled(self) -> int:
        """Chunks that aren't both stored and committed past."""
        return len(self._chunks)

    @property
    def full(self) -> bool:
        """No further chunk should be closed now."""
        return len(self._chunks) >= self._most

    @property
    def settled(self) -> bool:
        """Kafka knows all there is to know; what nobody has cut again yet stays claimed, for the next owner."""
        return self._open is None and not self._chunks and self._committed == self._wish((), self._start)

    @property
    def claims_settled(self) -> bool:
        """Every claim that Kafka has acknowledged and whose chunk was cut here is stored and committed past."""
        if self._open is not None or self._committed is None:
            return False
        return self._committed.ends == tuple(self._inherited)

    def close(self, chunk: ClosedChunk) -> None:
        """Append a chunk. It starts where the last one ends."""
        assert chunk.offsets.start == self.last_end, f"{chunk.offsets} does not follow {self.last_end}"
        self._inherit(chunk.offsets.end)
        self._chunks.append(chunk)

    def skip_stored(self, end: int) -> None:
        """[last end, end) is stored whole already, and nothing before it is unsettled."""
        assert not self._chunks
        assert self._open is None
        self._inherit(end)
        self._start = end
        self._durable = max(self._durable, end)

    def _inherit(self, end: int) -> None:
        """A chunk is there that ends here; a claim of a former owner keeps its end."""
        if self._inherited:
            claimed = self._inherited.popleft()
            assert end == claimed, f"a chunk ends at {end}, but was claimed up to {claimed}"

    def skip_empty(self, position: int) -> bool:
        """[last end, position) holds no record: the commit may move past it, the next chunk still starts before it.

        Whether there is something to move past.
        """
        if self._chunks or position <= self._durable:
            return False
        self._durable = position
        return True

    def plan(self, allowance: int) -> Plan | None:
        """What to commit now; None when Kafka knows it all. At most `allowance` chunks are claimed anew."""
        assert self._open is None, "a commit is in flight"
        chunks = list(self._chunks)
        stored = 0
        while stored < len(chunks) and chunks[stored].state is ChunkState.STORED:
            stored += 1
        start = chunks[stored - 1].offsets.end if stored else self._start
        claimed: list[ClosedChunk] = []
        for chunk in chunks[stored:]:
            if chunk.offsets.end > self._claimed_end:
                if len(claimed) >= self._most:
                    break
                if chunk.state is ChunkState.CLOSED:
                    if allowance <= 0:
                        break
                    allowance -= 1
            claimed.append(chunk)
        wish = self._wish(tuple(chunk.offsets.end for chunk in claimed), start)
        if wish in {self._committed, self._too_large}:
            return None
        self._open = Plan(wish, tuple(claimed))
        return self._open

    def _wish(self, ends: tuple[int, ...], start: int) -> Committed:
        durable = max(start, self._durable)
        fill_until = self._fill_until if durable < self._fill_until else 0
        return Committed(durable, start, (*ends, *self._inherited), fill_until, self._layout, self.topic_id)

    def acknowledged(self, plan: Plan) -> list[ClosedChunk]:
        """Kafka has stored the commit. Returns the chunks that may now be uploaded."""
        assert plan is self._open
        self._open = None
        self._committed = plan.committed
        self._claimed_end = plan.committed.last_end
        self._start = plan.committed.start
        self._durable = max(self._durable, plan.committed.durable)
        while self._chunks and self._chunks[0].offsets.end <= plan.committed.start:
            self._chunks.popleft()
        fresh = [chunk for chunk in plan.chunks if chunk.state is ChunkState.CLOSED]
        for chunk in fresh:
            chunk.state = ChunkState.CLAIMED
        return fresh

    def refused(self, plan: Plan) -> None:
        """Kafka answered with an error: nothing is acknowledged, and the same may be asked again."""
        assert plan is self._open
        self._open = None

    def metadata_too_large(self, plan: Plan) -> None:
        """Error 12: the broker takes less metadata than ours. Claim fewer; what is claimed stays so until it is stored.

        Raises HaltError when not even one claim fits.
        """
        self.refused(plan)
        self._too_large = plan.committed
        self._most = max(1, min(self._most, len(plan.committed.ends) - 1))
        if len(plan.committed.ends) <= 1 and not plan.committed.start < self._claimed_end:
            raise HaltError(
                f"The brokers refuse {len(plan.committed.encode())} bytes of offset metadata: "
                f"set offset.metadata.max.bytes to {MAX_METADATA_BYTES} (Kafka's default) on the brokers."
            )

    def stored(self, chunk: ClosedChunk) -> None:
        """S3 has said yes to all objects of a claimed chunk."""
        assert chunk.state is ChunkState.CLAIMED, f"{chunk.offsets} was stored without a claim"
        chunk.state = ChunkState.STORED
        chunk.cargo = None
