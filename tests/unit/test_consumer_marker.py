"""Whose prefix is it: one group, one cluster, one topic; another's marker means refuse."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from consumer.layout import Layout
from consumer.marker import Marker, claim_prefix, marker_key, read
from consumer.offsets import Membership
from headrace.errors import HaltError, HeadraceError
from headrace.kafka import Topic
from headrace.s3 import S3Refused, S3Unavailable
from tests.fakes import Fault, MemoryStore

LAYOUT = Layout("p", "%Y", "jsonl")
TOPIC = Topic("t", "id", "cluster", (0, 1))
KEY = "p/_headrace/t/g.cluster.json"


async def claim(
    store: MemoryStore,
    *,
    layout: Layout = LAYOUT,
    topic: Topic = TOPIC,
    group: str = "g",
    generation: int = 3,
    bounds: dict[int, tuple[int, int]] | None = None,
) -> Marker:
    return await claim_prefix(
        store, layout=layout, topic=topic, group=group, membership=Membership(generation, "me"), bounds=bounds
    )


async def test_a_new_prefix_is_marked() -> None:
    store = MemoryStore()
    marker = await claim(store)
    assert marker == Marker("id", LAYOUT.fingerprint, 3, "me")
    assert marker_key("p", TOPIC, "g") == KEY
    told = orjson.loads(store.objects[KEY].body)
    assert (told["group"], told["topic"], told["cluster_id"], told["layout"]["object_path"]) == (
        "g",
        "t",
        "cluster",
        "%Y",
    )
    assert "bounds" not in told
    assert store.objects[KEY].content_type == "application/json"


async def test_a_marker_is_found_again() -> None:
    store = MemoryStore()
    first = await claim(store)
    assert await claim(store, generation=9) == first
    assert len(store.landed) == 1


async def test_a_replay_goes_on_with_the_bounds_it_began_with() -> None:
    store = MemoryStore()
    await claim(store, bounds={0: (5, 70), 1: (0, 0)})
    found = await claim(store, bounds={0: (5, 90)})
    assert found.bounds == {0: (5, 70), 1: (0, 0)}


async def test_another_layout_is_written_down() -> None:
    store = MemoryStore()
    await claim(store, bounds={0: (5, 70)})
    other = Layout("p", "%m", "jsonl")
    found = await claim(store, layout=other, generation=9)
    assert found == Marker("id", other.fingerprint, 3, "me", {0: (5, 70)})
    assert read(store.objects[KEY].body, KEY) == found


async def test_a_topic_made_anew_halts() -> None:
    store = MemoryStore()
    await claim(store)
    with pytest.raises(HaltError, match=r"Topic t was deleted and made anew \(its id was id, now other\)"):
        await claim(store, topic=Topic("t", "other", "cluster", (0,)))


@pytest.mark.parametrize(
    ("group", "cluster"), [("h", "cluster"), ("g", "elsewhere")], ids=["another group", "another cluster"]
)
async def test_another_archive_here_is_refused(group: str, cluster: str) -> None:
    store = MemoryStore()
    await claim(store)
    with pytest.raises(HeadraceError, match=r"p/_headrace/t/g\.cluster\.json says that another group or cluster"):
        await claim(store, group=group, topic=Topic("t", "id", cluster, (0,)))


async def test_of_two_that_begin_at_once_not_both_go_on() -> None:
    store = MemoryStore()
    gates = [Fault("get", gate=asyncio.Event()) for _ in range(2)]
    store.faults.extend(gates)
    claims = [asyncio.create_task(claim(store, group=group)) for group in "gh"]
    for fault in gates:
        await fault.asked.wait()
    for fault in gates:
        assert fault.gate is not None
        fault.gate.set()
    ended = await asyncio.gather(*claims, return_exceptions=True)
    assert any(isinstance(one, HeadraceError) for one in ended)


async def test_other_topics_and_files_do_not_matter() -> None:
    store = MemoryStore()
    await claim(store, topic=Topic("t-beside", "id", "cluster", (0,)), group="h")
    await store.put("p/_headrace/t/README", b"", metadata={}, content_type="text/plain")
    await claim(store)


@pytest.mark.parametrize("call", ["get", "put", "list"])
@pytest.mark.parametrize("error", [S3Unavailable("503"), S3Refused("403")])
async def test_the_stores_errors_are_told(call: str, error: Exception) -> None:
    store = MemoryStore()
    store.faults.append(Fault(call, error))
    with pytest.raises(type(error)):
        await claim(store)
    await claim(store)


async def test_a_put_without_an_answer_is_found() -> None:
    store = MemoryStore()
    store.faults.append(Fault("put", S3Unavailable("lost"), stored=True))
    with pytest.raises(S3Unavailable):
        await claim(store)
    assert (await claim(store, generation=9)).generation == 3


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b"null", b'{"headrace":1}', b'{"headrace":1,"created_by":{},"topic_id":""}']
)
def test_what_is_no_marker_is_told(body: bytes) -> None:
    with pytest.raises(HeadraceError, match="k is no marker of headrace's"):
        read(body, "k")


def test_a_newer_marker_is_told() -> None:
    with pytest.raises(HeadraceError, match="k was written by a newer headrace"):
        read(b'{"headrace":2}', "k")
