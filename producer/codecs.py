"""What packs record batches, aiokafka's own where its levels suit, and what sums them: the processor's instruction."""

from __future__ import annotations

from typing import Final, Literal

from aiokafka import codec as aiokafka_codec
from crc32c import crc32c

from producer.packing import Codec

__all__ = ["Compression", "codec_for", "crc32c"]

Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]

FAST: Final = 1
"""The level at which a batch costs less to pack than Kafka and the network save. aiokafka's are 9, 9 and 3."""


def codec_for(compression: Compression) -> Codec | None:
    """None for `none`."""
    match compression:
        case "none":
            return None
        case "gzip":
            from isal import igzip

            return Codec(1, lambda records: igzip.compress(records, FAST))
        case "snappy":
            return Codec(2, aiokafka_codec.snappy_encode)
        case "lz4":  # frames of independent blocks without a content's sum, as old readers want them
            return Codec(3, lambda records: aiokafka_codec.lz4_encode(records, FAST))
        case "zstd":
            from zstandard import ZstdCompressor

            return Codec(4, ZstdCompressor(level=FAST).compress)
