"""What objects hold: a format (how records become bytes) and a compression (how these become small)."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final, Literal, overload

from consumer.encode.compression import DEFAULT_LEVELS, LEVELS, Codec, Compression
from consumer.encode.form import Beside, Format, Packed, Place
from consumer.encode.lines import Indexed, Lines
from consumer.encode.raw import Raw

__all__ = ["Beside", "Codec", "Compression", "Format", "FormatName", "Packed", "Place", "open_format"]

FormatName = Literal["jsonl", "raw", "parquet", "object"]

_OF_LINES: Final[dict[FormatName, type[Lines]]] = {"jsonl": Lines, "raw": Raw, "object": Indexed}


@overload
def open_format(
    name: Literal["jsonl", "raw", "object"], compression: Compression, level: int | None = None
) -> Lines: ...
@overload
def open_format(name: FormatName, compression: Codec, level: int | None = None) -> Format: ...
def open_format(name: FormatName, compression: Codec, level: int | None = None) -> Format:
    """The format of these settings. Level None: the compression's default.

    Raises ValueError for an unknown level, for a compression that the format does not have, and where a package lacks.
    """
    if name == "parquet":
        if find_spec("pyarrow") is None:
            raise ValueError("FORMAT=parquet needs pyarrow, which is not installed: pip install 'headrace[parquet]'")
        from consumer.encode.parquet import open_parquet

        return open_parquet(compression, level)
    if compression == "snappy":
        raise ValueError("COMPRESSION=snappy is for FORMAT=parquet alone")
    chosen = DEFAULT_LEVELS[compression] if level is None else level
    if chosen not in LEVELS[compression]:
        known = LEVELS[compression]
        raise ValueError(f"{compression} has no level {chosen}; it has {known.start} to {known.stop - 1}")
    return _OF_LINES[name](compression, chosen)
