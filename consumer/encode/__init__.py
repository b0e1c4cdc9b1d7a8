"""What objects hold: a format (how records become bytes) and a compression (how these become small)."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, Literal, overload

from consumer.encode.compression import DEFAULT_LEVELS, LEVELS, Codec, Coder, Compression
from consumer.encode.form import Beside, Format, Packed, Place
from consumer.encode.lines import Indexed, Lines
from consumer.encode.raw import Raw

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "Beside",
    "Codec",
    "Coder",
    "ColumnsOf",
    "Compression",
    "Format",
    "FormatName",
    "Packed",
    "Place",
    "open_format",
]

FormatName = Literal["jsonl", "raw", "parquet", "object"]

ColumnsOf = Literal["envelope", "payload"]
"""What PARQUET_COLUMNS may say."""

_OF_LINES: Final[dict[FormatName, type[Lines]]] = {"jsonl": Lines, "raw": Raw, "object": Indexed}


@overload
def open_format(
    name: Literal["jsonl", "raw", "object"], compression: Compression, level: int | None = None
) -> Lines: ...
@overload
def open_format(
    name: FormatName,
    compression: Codec,
    level: int | None = None,
    columns: ColumnsOf = "envelope",
    schema: Path | None = None,
) -> Format: ...
def open_format(
    name: FormatName,
    compression: Codec,
    level: int | None = None,
    columns: ColumnsOf = "envelope",
    schema: Path | None = None,
) -> Format:
    """The format of these settings. Level None: the compression's default. `schema`: a file, for a payload's columns.

    Raises ValueError for an unknown level, for a compression that the format does not have, and where a package lacks.
    """
    if schema is not None and columns != "payload":
        raise ValueError("PARQUET_SCHEMA_FILE is for PARQUET_COLUMNS=payload alone")
    if name == "parquet":
        if find_spec("pyarrow") is None:
            raise ValueError("FORMAT=parquet needs pyarrow, which is not installed: pip install 'headrace[parquet]'")
        if columns == "payload":
            from consumer.encode.columns import open_columns

            return open_columns(compression, level, schema)
        from consumer.encode.parquet import open_parquet

        return open_parquet(compression, level)
    if columns != "envelope":
        raise ValueError("PARQUET_COLUMNS is for FORMAT=parquet alone")
    if compression == "snappy":
        raise ValueError("COMPRESSION=snappy is for FORMAT=parquet alone")
    chosen = DEFAULT_LEVELS[compression] if level is None else level
    if chosen not in LEVELS[compression]:
        known = LEVELS[compression]
        raise ValueError(f"{compression} has no level {chosen}; it has {known.start} to {known.stop - 1}")
    return _OF_LINES[name](compression, chosen)
