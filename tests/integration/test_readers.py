"""What was archived, read by the tools that people have: the sums equal what was sent.

The examples of docs/OBJECTS.md run here, too.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from headrace.verify import inspect_topic
from tests.trial import trial

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from headrace.record import StoredRecord
    from tests.trial import Trial

pytestmark = pytest.mark.stack

DOCS = Path(__file__).parents[2] / "docs" / "OBJECTS.md"
SENT, PARTITIONS, HOURS = 3000, 3, 3
HOUR_MS = 3_600_000
TOPIC = "orders"
"""The topic's folder has this name on disk, as in the examples of the docs."""
VARIANTS = {
    "jsonl-zstd": {},
    "jsonl-gzip": {"COMPRESSION": "gzip"},
    "raw-zstd": {"FORMAT": "raw"},
    "raw-gzip": {"FORMAT": "raw", "COMPRESSION": "gzip"},
    "parquet-zstd": {"FORMAT": "parquet", "COMPRESSION_LEVEL": "3"},
    "columns-gzip": {"FORMAT": "parquet", "COMPRESSION": "gzip", "PARQUET_COLUMNS": "payload"},
}
EXTENSIONS = {
    "jsonl-zstd": "jsonl.zst",
    "jsonl-gzip": "jsonl.gz",
    "raw-zstd": "txt.zst",
    "raw-gzip": "txt.gz",
    "parquet-zstd": "parquet",
    "columns-gzip": "columns.parquet",
}


@dataclass
class Archive:
    """One format's objects, downloaded: `folder/orders/dt=…/hour=…/….parquet`."""

    folder: Path
    records: dict[int, list[StoredRecord]]
    heads: list[dict[str, Any]] = field(default_factory=list)

    def files(self, pattern: str) -> list[Path]:
        return sorted((self.folder / TOPIC).rglob(pattern))


@dataclass
class Archives:
    log: dict[int, list[StoredRecord]]
    by_name: dict[str, Archive]

    @property
    def sent(self) -> list[StoredRecord]:
        return [record for partition in sorted(self.log) for record in self.log[partition]]

    @property
    def facts(self) -> tuple[int, int, int, int]:
        """Records, tombstones, those of the first hour, and the sum of what is named n in JSON objects."""
        first = min(record.timestamp for record in self.sent) // HOUR_MS
        return (
            len(self.sent),
            sum(record.value is None for record in self.sent),
            sum(record.timestamp // HOUR_MS == first for record in self.sent),
            sum(number_of(record.value) for record in self.sent),
        )


def parsed(value: bytes | None) -> Any:
    """JSON in UTF-8; None for anything else."""
    try:
        return orjson.loads(value or b"null")
    except orjson.JSONDecodeError:
        return None


def number_of(value: bytes | None) -> int:
    found = parsed(value)
    return found["n"] if isinstance(found, dict) else 0


def a_value(number: int, dice: random.Random) -> bytes | None:
    match number % 20:
        case 0:
            return None
        case 1:
            return b'{"n":%d,"big":12345678901234567890.10,"id":18446744073709551616}' % number
        case 2:
            return b'{"n":%d,"at":"2026-11-22","tags":["a","b"],"who":{"name":"\xc3\xa9","age":%d}}' % (number, number)
        case 3:
            return b'{"n":%d, "at":%d,"who":null}' % (number, number)
        case 4:
            return dice.choice(
                [b"", b"plain text", b"two\nlines", b"with a \r", b'{"n":', b"null", b'"text"', b"[1,2]"]
            )
        case 5:
            return dice.choice([b"\xff\xfe\x00", b'{"bad":"\xff"}', dice.randbytes(50)])
        case _:
            return b'{"n":%d,"amount":%.2f,"city":"%s"}' % (number, number / 4, dice.choice([b"Oslo", b"Bern"]))


async def _produce(it: Trial) -> None:
    dice = random.Random(6)
    start = (int(time.time() * 1000) // HOUR_MS - HOURS) * HOUR_MS
    async with it.producer() as producer:
        sent = [
            await producer.send(
                it.topic,
                a_value(number, dice),
                key=dice.choice([b"k%d" % (number % 7), b"\xff"]) if number % 4 == 0 else None,
                headers=[] if number % 5 else [("trace", b"%d" % number), ("trace", None), ("b", b"\x80")],
                partition=number % PARTITIONS,
                timestamp_ms=start + (number // PARTITIONS % HOURS) * HOUR_MS + number,
            )
            for number in range(SENT)
        ]
        await asyncio.gather(*sent)


async def _all_stored(trials: Sequence[Trial], names: Sequence[str]) -> None:
    ends = await trials[0].log_ends()

    async def whole() -> bool:
        async with trials[0].cluster() as cluster:
            found = [await cluster.committed(name, trials[0].tps) for name in names]
        return all(told[tp][0] >= end and told[tp][1].endswith(" 0 -") for told in found for tp, end in ends.items())

    await trials[0].eventually(whole, 90, "all formats have all of it")


async def _download(it: Trial, folder: Path) -> Archive:
    found = Archive(folder, await it.archive())
    async with it.store() as store:
        async for item in store.list(f"{it.prefix}/"):
            answer = await store._client.get_object(Bucket=store._bucket, Key=item.key)
            file = folder / item.key.removeprefix(f"{it.prefix}/").replace(it.topic, TOPIC)
            file.parent.mkdir(parents=True, exist_ok=True)
            async with answer["Body"] as body:
                file.write_bytes(await body.read())
            if "/_headrace/" not in item.key:
                found.heads.append(answer | {"Key": item.key})
        report = await inspect_topic(store, prefix=it.prefix, topic=it.topic)
    assert report.whole
    assert report.strangers == 0
    return found


async def _make(it: Trial, folder: Path) -> Archives:
    await it.create_topic()
    await _produce(it)
    trials = {name: replace(it, prefix=f"{it.prefix}/{name}") for name in VARIANTS}
    for name, settings in VARIANTS.items():
        trials[name].start(KAFKA_GROUP=f"{it.topic}-{name}", CHUNK_MAX_RECORDS="1000", **settings)
    await _all_stored(list(trials.values()), [f"{it.topic}-{name}" for name in VARIANTS])
    for process in it.processes:
        process.terminate()
    codes = [await process.ended() for process in it.processes]
    assert codes == [0] * len(codes), it.logs()
    return Archives(await it.log(), {name: await _download(trials[name], folder / name) for name in VARIANTS})


@pytest.fixture(scope="module")
def archives(service_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archives]:
    with ExitStack() as stack:
        it = stack.enter_context(trial(service_env, PARTITIONS, "r"))
        yield asyncio.run(_make(it, tmp_path_factory.mktemp("archives")))


def parquets() -> list[str]:
    return [name for name in VARIANTS if name.startswith("parquet")]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_record_comes_back_byte_for_byte(archives: Archives, name: str) -> None:
    assert archives.by_name[name].records == archives.log
    assert archives.facts[0] == SENT


@pytest.mark.parametrize("name", VARIANTS)
def test_a_browser_gets_the_file_that_its_name_says(archives: Archives, name: str) -> None:
    types = {
        ".zst": "application/zstd",
        ".gz": "application/gzip",
        ".parquet": "application/vnd.apache.parquet",
    }
    heads = archives.by_name[name].heads
    assert heads
    for head in heads:
        assert head["ContentType"] == types[Path(head["Key"]).suffix], head["Key"]
        assert "ContentEncoding" not in head


@pytest.fixture(scope="module", autouse=True)
def zstdcat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """On a machine without zstd's tool its library, in a program of that name."""
    with pytest.MonkeyPatch.context() as patch:
        if shutil.which("zstdcat") is None:
            program = tmp_path_factory.mktemp("bin") / "zstdcat"
            program.write_text(
                f"#!{sys.executable}\nimport sys, zstandard\n"
                "for name in sys.argv[1:]:\n"
                "    zstandard.ZstdDecompressor().copy_stream(open(name, 'rb'), sys.stdout.buffer)\n"
            )
            program.chmod(0o755)
            patch.setenv("PATH", str(program.parent), prepend=os.pathsep)
        yield


def unpacked(tool: str, files: Sequence[Path]) -> bytes:
    return subprocess.run([tool, *files], check=True, capture_output=True).stdout


@pytest.mark.parametrize(("name", "tool"), [("raw-gzip", "zcat"), ("raw-zstd", "zstdcat")])
def test_zcat_and_zstdcat_give_the_payloads(archives: Archives, name: str, tool: str) -> None:
    archive = archives.by_name[name]
    lines = unpacked(tool, archive.files(f"*.{EXTENSIONS[name]}"))
    sent = [it.value for it in archives.sent if it.value and b"\n" not in it.value and b"\r" not in it.value]
    assert sorted(lines.split(b"\n")[:-1]) == sorted(sent)
    assert sum(map(number_of, lines.splitlines())) == archives.facts[3]


@pytest.mark.parametrize(("name", "tool"), [("jsonl-gzip", "zcat"), ("jsonl-zstd", "zstdcat")])
def test_command_line_tools_give_the_lines(archives: Archives, name: str, tool: str) -> None:
    lines = unpacked(tool, archives.by_name[name].files(f"*.{EXTENSIONS[name]}")).splitlines()
    assert len(lines) == SENT
    assert sum("tombstone" in json.loads(line) for line in lines) == archives.facts[1]


@pytest.mark.parametrize("name", ["jsonl-gzip", "raw-gzip"])
def test_pythons_gzip_reads_it(archives: Archives, name: str) -> None:
    archive = archives.by_name[name]
    lines = b"".join(gzip.decompress(file.read_bytes()) for file in archive.files("*.gz"))
    assert lines == unpacked("zcat", archive.files("*.gz"))


@pytest.mark.parametrize("name", parquets())
def test_pyarrow_and_pandas_read_all_files_as_one_table(archives: Archives, name: str) -> None:
    archive, (sent, tombstones, in_first_hour, total) = archives.by_name[name], archives.facts
    dataset = ds.dataset(archive.folder / TOPIC, format="parquet", partitioning="hive")
    table = dataset.to_table()
    assert table.num_rows == sent
    values = table.column("value").to_pylist()
    assert sum(number_of(value.encode()) for value in values if value is not None) == total
    first = min(dataset.to_table(columns=["dt", "hour"]).to_pylist(), key=lambda row: (row["dt"], row["hour"]))
    chosen = (ds.field("dt") == first["dt"]) & (ds.field("hour") == first["hour"])
    assert dataset.count_rows(filter=chosen) == in_first_hour
    fragments = list(dataset.get_fragments(filter=chosen))
    assert 0 < len(fragments) < len(dataset.files), "other hours' files are not looked at"
    frame = pd.read_parquet(archive.folder / TOPIC)
    assert len(frame) == sent
    assert str(frame["timestamp"].dtype) == "datetime64[ms, UTC]"
    assert int((frame["value"].isna() & frame["value_binary"].isna()).sum()) == tombstones
    assert sorted(zip(frame["partition"], frame["offset"], strict=True)) == [
        (partition, it.offset) for partition in sorted(archives.log) for it in archives.log[partition]
    ]


@pytest.mark.parametrize("name", parquets())
def test_duckdb_reads_parquet_and_looks_at_no_other_hours_files(archives: Archives, name: str) -> None:
    archive, (sent, tombstones, in_first_hour, total) = archives.by_name[name], archives.facts
    source = f"read_parquet('{archive.folder}/{TOPIC}/*/*/*.parquet', hive_partitioning = true)"
    db = duckdb.connect()
    query = f"""
        select count(*), count(*) filter (value is null and value_binary is null),
               count(distinct (partition, "offset")),
               sum((try_cast(value as json)->>'$.n')::bigint),
               sum(len(headers)), count(timestamp)
        from {source}"""
    headers = sum(len(record.headers) for record in archives.sent)
    assert db.execute(query).fetchone() == (sent, tombstones, sent, total, headers, sent)
    dt, hour = db.execute(f"select dt, hour from {source} order by all limit 1").fetchone() or ("", "")
    where = f"from {source} where dt = '{dt}' and hour = '{hour}'"
    assert db.execute(f"select count(*) {where}").fetchone() == (in_first_hour,)
    plan = "\n".join(str(row[1]) for row in db.execute(f"explain analyze select max(key) {where}").fetchall())
    read = re.search(r"Total Files Read: (\d+)", plan)
    assert read is not None, plan
    assert int(read[1]) == len([it for it in archive.files("*.parquet") if it.parent.name == f"hour={hour}"])


def test_payloads_own_columns_are_read_as_one_table_whatever_drifts(archives: Archives) -> None:
    archive, (sent, tombstones, _, total) = archives.by_name["columns-gzip"], archives.facts
    source = f"read_parquet('{archive.folder}/{TOPIC}/*/*/*.parquet', hive_partitioning = true, union_by_name = true)"
    query = f"""
        select count(*), count(*) filter (not _exact and _value is null and _value_binary is null), sum(n),
               sum(amount), count(*) filter (city = 'Oslo'), max(who.age), sum(len(tags))
        from {source}"""
    objects = [found for it in archives.sent if isinstance(found := parsed(it.value), dict)]
    ages = [it["who"]["age"] for it in objects if it.get("who")]
    assert duckdb.connect().execute(query).fetchone() == (
        sent,
        tombstones,
        total,
        pytest.approx(sum(it.get("amount", 0) for it in objects)),
        sum(it.get("city") == "Oslo" for it in objects),
        max(ages),
        2 * len(ages),
    )
    files = archive.files("*.parquet")
    schema = pa.unify_schemas([pq.read_schema(file) for file in files], promote_options="permissive")
    partitioning = ds.partitioning(pa.schema([("dt", pa.string()), ("hour", pa.string())]), flavor="hive")
    schema = pa.unify_schemas([schema, partitioning.schema])
    dataset = ds.dataset(archive.folder / TOPIC, format="parquet", partitioning=partitioning, schema=schema)
    frame = dataset.to_table(columns=["n", "city", "dt"]).to_pandas()
    assert len(frame) == sent
    assert frame["n"].sum() == total
    exact = sum(
        it.value is not None and orjson.dumps(parsed(it.value)) == it.value for it in archives.sent if parsed(it.value)
    )
    (kept,) = duckdb.connect().execute(f"select count(*) from {source} where _exact").fetchone() or (0,)
    assert kept >= 0.95 * exact, "what columns give back does not take a second place"


def test_duckdb_reads_the_lines(archives: Archives) -> None:
    columns = "{'offset': 'BIGINT', 'timestamp': 'BIGINT', 'value': 'JSON', 'tombstone': 'BOOLEAN'}"
    for name in ("jsonl-zstd", "jsonl-gzip"):
        files = f"{archives.by_name[name].folder}/{TOPIC}/*/*/*.{EXTENSIONS[name]}"
        source = f"read_ndjson('{files}', columns = {columns}, hive_partitioning = true)"
        query = f"""
            with lines as (select *, dt || '/' || hour as day_and_hour from {source})
            select count(*), count(tombstone), count(*) filter (day_and_hour = (select min(day_and_hour) from lines)),
                   sum((value->>'$.n')::bigint)
            from lines"""
        assert duckdb.connect().execute(query).fetchone() == archives.facts, name


def test_files_are_sorted_and_tell_it(archives: Archives) -> None:
    for name in parquets():
        for file in archives.by_name[name].files("*.parquet"):
            parquet = pq.ParquetFile(file)
            offsets = parquet.read(columns=["offset"]).column(0).to_pylist()
            assert offsets == sorted(offsets)
            group = parquet.metadata.row_group(0)
            assert group.column(group.sorting_columns[0].column_index).path_in_schema == "offset"
            assert group.column(0).compression == name.partition("-")[2].upper()


def examples(language: str) -> Iterator[Any]:
    text = DOCS.read_text()
    for number, found in enumerate(re.finditer(rf"```{language} ([a-z]+-[a-z]+)\n(.*?)```", text, re.DOTALL)):
        yield pytest.param(found[1], found[2], id=f"{found[1]}-{number}")


@pytest.mark.parametrize(("name", "text"), list(examples("sql")))
def test_the_docs_queries_run(archives: Archives, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    monkeypatch.chdir(archives.by_name[name].folder)
    assert duckdb.connect().execute(text).fetchall()


@pytest.mark.parametrize(("name", "text"), list(examples("python")))
def test_the_docs_python_runs(archives: Archives, name: str, text: str) -> None:
    told = subprocess.run(
        [sys.executable, "-c", text], cwd=archives.by_name[name].folder, capture_output=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout


@pytest.mark.parametrize(("name", "text"), list(examples("sh")))
def test_the_docs_commands_run(archives: Archives, name: str, text: str) -> None:
    told = subprocess.run(["bash", "-euc", text], cwd=archives.by_name[name].folder, capture_output=True, check=False)
    assert told.returncode == 0, told.stderr
    assert told.stdout
