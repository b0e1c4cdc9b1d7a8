"""Whose prefix is it? One marker a group, cluster and topic, below `{prefix}/_headrace/{topic}/`.

Each group puts its own marker, then LISTs the folder: another's marker means refuse (both may). Nothing but listing
after write is asked of the store.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from consumer.layout import LAYOUT_VERSION
from consumer.takeover import made_anew
from headrace.errors import HeadraceError
from headrace.objects import control_folder

if TYPE_CHECKING:
    from consumer.layout import Layout
    from consumer.offsets import Membership
    from headrace.kafka import Topic
    from headrace.s3 import ObjectStore

FORMAT_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Marker:
    """What the marker says. `generation` and `member_id` made it; `bounds`: a replay's [start, stop) by partition."""

    topic_id: str
    fingerprint: str
    generation: int
    member_id: str
    bounds: dict[int, tuple[int, int]] = field(default_factory=dict)

    def body(self, topic: Topic, group: str, layout: Layout) -> bytes:
        told: dict[str, Any] = {
            "headrace": FORMAT_VERSION,
            "about": "headrace writes this topic's objects here, for this group. Remove it only with the objects.",
            "group": group,
            "cluster_id": topic.cluster_id,
            "topic": topic.name,
            "topic_id": self.topic_id,
            "layout": {
                "fingerprint": self.fingerprint,
                "version": LAYOUT_VERSION,
                "object_path": layout.object_path,
                "suffix": layout.suffix,
                **layout.more,
            },
            "created_by": {"generation": self.generation, "member_id": self.member_id},
        }
        if self.bounds:
            told["bounds"] = {str(partition): list(bounds) for partition, bounds in self.bounds.items()}
        return orjson.dumps(told, option=orjson.OPT_INDENT_2)


def read(body: bytes, key: str) -> Marker:
    """Raises HeadraceError for what isn't a marker of a known version."""
    try:
        told = orjson.loads(body)
        if told["headrace"] != FORMAT_VERSION:
            raise HeadraceError(f"{key} was written by a newer headrace (marker version {told['headrace']}).")
        made = told["created_by"]
        bounds = {int(partition): (start, stop) for partition, (start, stop) in told.get("bounds", {}).items()}
        return Marker(told["topic_id"], told["layout"]["fingerprint"], made["generation"], made["member_id"], bounds)
    except (ValueError, KeyError, TypeError) as error:
        raise HeadraceError(f"{key} is no marker of headrace's ({error!r}). Is S3_PREFIX the right one?") from error


def marker_key(prefix: str, topic: Topic, group: str) -> str:
    return f"{control_folder(prefix, topic.name)}{group}.{topic.cluster_id}.json"


async def claim_prefix(
    store: ObjectStore,
    *,
    layout: Layout,
    topic: Topic,
    group: str,
    membership: Membership,
    bounds: dict[int, tuple[int, int]] | None = None,
) -> Marker:
    """Find this group's marker or put it; refuse where another group's is.

    Raises HaltError for a topic made anew, HeadraceError for another's prefix, and the store's errors.
    """
    key = marker_key(layout.prefix, topic, group)
    body = await store.get(key)
    if body is None:
        marker = Marker(topic.id, layout.fingerprint, membership.generation, membership.member_id, bounds or {})
    else:
        marker = read(body, key)
        if marker.topic_id != topic.id:
            raise made_anew(topic.name, was=marker.topic_id, now=topic.id)
    if body is None or marker.fingerprint != layout.fingerprint:
        marker = Marker(topic.id, layout.fingerprint, marker.generation, marker.member_id, marker.bounds)
        await store.put(key, marker.body(topic, group, layout), metadata={}, content_type="application/json")
    folder = control_folder(layout.prefix, topic.name)
    async for item in store.list(folder):
        if item.key != key and item.key.endswith(".json"):
            raise HeadraceError(
                f"{item.key} says that another group or cluster archives topic {topic.name} here. Set another "
                f"S3_PREFIX (one group per topic and prefix), or remove that marker if that archive has ended."
            )
    return marker
