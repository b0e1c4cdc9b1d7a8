"""Inner parts of aiokafka that headrace stands on. A new version that moves one of them fails here, not in production.

Users: consumer/source.py, consumer/offsets.py, producer/publisher.py, headrace/kafka.py.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.conn import AIOKafkaConnection
from aiokafka.consumer.fetcher import READ_COMMITTED, Fetcher, FetchError, FetchResult, PartitionRecords
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    OffsetOutOfRangeError,
    RequestTimedOutError,
    for_code,
)
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.util import get_running_loop

from consumer.batches import BatchConsumer, CheckedClient
from consumer.source import FETCH_MAX_BYTES, MOST_PREFETCHED, PARTITION_MAX_BYTES, bound_prefetching

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

A, B = TopicPartition("t", 0), TopicPartition("t", 1)


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


# What consumer/source.py holds


@pytest.fixture
async def consumer() -> AsyncIterator[Any]:
    found = AIOKafkaConsumer(
        bootstrap_servers="127.0.0.1:1",
        client_id="c",
        group_id="g",
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        session_timeout_ms=10_000,
        heartbeat_interval_ms=2_500,
        rebalance_timeout_ms=16_000,
        max_poll_interval_ms=600_000,
        fetch_max_bytes=1,
        max_partition_fetch_bytes=1,
        metadata_max_age_ms=30_000,
    )
    yield found
    await found.stop()


async def test_a_consumer_holds_client_subscription_and_coordinator(consumer: Any) -> None:
    assert isinstance(consumer._client, AIOKafkaClient)
    assert isinstance(consumer._subscription, SubscriptionState)
    assert consumer._subscription.subscription is None
    assert "_coordinator" in vars(consumer)
    assert "_coordinator = GroupCoordinator(" in inspect.getsource(AIOKafkaConsumer.start)


async def test_calls_of_a_consumer() -> None:
    assert parameters(AIOKafkaConsumer.getmany) == ["self", "partitions", "timeout_ms", "max_records"]
    assert parameters(AIOKafkaConsumer.subscribe) == ["self", "topics", "pattern", "listener"]
    assert parameters(AIOKafkaConsumer.seek) == ["self", "partition", "offset"]
    assert parameters(AIOKafkaConsumer.pause) == parameters(AIOKafkaConsumer.resume) == ["self", "partitions"]
    assert parameters(AIOKafkaConsumer.highwater) == ["self", "partition"]
    for call in (AIOKafkaConsumer.seek, AIOKafkaConsumer.pause, AIOKafkaConsumer.resume, AIOKafkaConsumer.highwater):
        assert not inspect.iscoroutinefunction(call)


async def test_what_a_fetcher_asks_for_next() -> None:
    """bound_prefetching stands between the fetcher's routine and what it asks for."""
    routine = inspect.getsource(Fetcher._fetch_requests_routine)
    assert "self._get_actions_per_node(assignment)" in routine
    assert routine.index("fetch_requests,") < routine.index("reset_requests,") < routine.index("= self._get_actions")
    assert "self._fetch_max_bytes," in inspect.getsource(Fetcher._get_actions_per_node)
    assert "backoff=self._prefetch_backoff" in inspect.getsource(Fetcher._proc_fetch_request)
    assert "_fetcher = Fetcher(" in inspect.getsource(AIOKafkaConsumer.start)
    client = AIOKafkaClient(bootstrap_servers="127.0.0.1:1")
    fetcher = Fetcher(client, SubscriptionState(loop=get_running_loop()))
    fetcher._get_actions_per_node = lambda _: (["fetch"], {}, 0.2, False, [])
    brokers = 1
    bound_prefetching(fetcher, lambda: brokers)
    assert fetcher._get_actions_per_node(None) == (["fetch"], {}, 0.2, False, [])
    assert fetcher._fetch_max_bytes == FETCH_MAX_BYTES
    brokers = 100
    fetcher._records.update({TopicPartition("t", number): None for number in range(MOST_PREFETCHED + 1)})
    assert fetcher._get_actions_per_node(None) == ([], {}, 0.2, False, [])
    assert fetcher._fetch_max_bytes == PARTITION_MAX_BYTES
    await fetcher.close()
    await client.close()


@pytest.fixture
async def coordinator() -> AsyncIterator[Any]:
    client = AIOKafkaClient(bootstrap_servers="127.0.0.1:1")
    subscription = SubscriptionState(loop=get_running_loop())
    found = GroupCoordinator(client, subscription, group_id="g", enable_auto_commit=False)
    yield found
    found._coordination_task.cancel()
    await asyncio.gather(found._coordination_task, return_exceptions=True)
    await client.close()


async def test_a_coordinator_knows_its_membership(coordinator: Any) -> None:
    """Outside of a group these are what Membership refuses."""
    assert (coordinator.generation, coordinator.member_id, coordinator.coordinator_id) == (-1, "", None)
    coordinator.generation, coordinator.member_id = 5, "me"
    coordinator.reset_generation()
    assert (coordinator.generation, coordinator.member_id) == (-1, "")
    coordinator.coordinator_id = 7
    coordinator.coordinator_dead()
    assert coordinator.coordinator_id is None
    coordinator.coordinator_dead()


async def test_calls_of_a_coordinator(coordinator: Any) -> None:
    assert parameters(GroupCoordinator._do_heartbeat) == ["self"]
    assert inspect.iscoroutinefunction(GroupCoordinator._do_heartbeat)
    assert parameters(GroupCoordinator.ensure_coordinator_known) == ["self"]
    assert inspect.iscoroutinefunction(GroupCoordinator.ensure_coordinator_known)
    coordinator.check_errors()
    coordinator._pending_exception = KafkaError("told")
    with pytest.raises(KafkaError, match="told"):
        coordinator.check_errors()


async def test_a_heartbeat_is_good_only_when_it_was_answered(coordinator: Any) -> None:
    """Source notes when it was sent: uploads may start for so long."""
    assert await coordinator._do_heartbeat() is False, "no coordinator is known"
    codes = {0: True, 27: True, 15: False, 16: False, 22: False, 25: False}
    for code, good in codes.items():

        async def answer(request: Any, code: int = code) -> Any:
            return type("Answer", (), {"error_code": code})

        coordinator._send_req = answer
        assert await coordinator._do_heartbeat() is good, code


async def test_the_heartbeat_routine_calls_what_source_wraps() -> None:
    assert "self._do_heartbeat()" in inspect.getsource(GroupCoordinator._heartbeat_routine)


async def test_a_listener_hears_of_an_assignment_with_the_generation_in_place(coordinator: Any) -> None:
    """And what it raises is swallowed, so that it may raise nothing."""
    assert parameters(ConsumerRebalanceListener.on_partitions_assigned) == ["self", "assigned"]
    assert parameters(ConsumerRebalanceListener.on_partitions_revoked) == ["self", "revoked"]
    source = inspect.getsource(GroupCoordinator._on_join_complete)
    assert source.index("assign_from_subscribed") < source.index("on_partitions_assigned(assigned)")
    joining = inspect.getsource(GroupCoordinator._do_rejoin_group)
    assert "_on_join_complete(" in joining
    assert "on_partitions_revoked" in inspect.getsource(GroupCoordinator._on_join_prepare)


# What consumer/frames.py stands in for


async def test_a_connection_reads_answers_as_frames_do() -> None:
    """Four bytes of length, an answer, and on: until an error closes it."""
    reading = inspect.getsource(AIOKafkaConnection._read)
    for line in ("readexactly(4)", 'struct.unpack(">i"', "readexactly(size)", "self._handle_frame(resp)"):
        assert line in reading
    assert parameters(AIOKafkaConnection._handle_frame) == ["self", "resp"]
    assert "CloseReason.CONNECTION_BROKEN, exc=exc" in inspect.getsource(AIOKafkaConnection._on_read_task_error)
    assert "if read_task.cancelled():" in inspect.getsource(AIOKafkaConnection._on_read_task_error)
    connecting = inspect.getsource(AIOKafkaConnection.connect)
    assert "self._reader, self._writer, self._protocol = reader, writer, protocol" in connecting
    assert "self._read_task = self._create_reader_task()" in connecting
    assert "self._requests.append(" in inspect.getsource(AIOKafkaConnection.send)
    closing = inspect.getsource(AIOKafkaConnection.close)
    assert parameters(AIOKafkaConnection.close) == ["self", "reason", "exc"]
    assert "if self._reader is not None:" in closing
    assert "self._writer = self._reader = None" in closing
    assert "self._conns[conn_id] = await create_conn(" in inspect.getsource(AIOKafkaClient._get_conn)
    assert {"_buffer", "_paused"} <= vars(asyncio.StreamReader()).keys()


# Positions: a chunk's end comes from them


def batch(base: int, *values: bytes, transactional: bool = False) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=int(transactional),
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )
    for number, value in enumerate(values):
        builder.append(number, timestamp=1_795_219_200_000, key=None, value=value, headers=[])
    raw = bytearray(builder.build())
    raw[0:8] = base.to_bytes(8, "big")  # not part of what the checksum covers
    return bytes(raw)


class Log:
    """A fetcher's buffer over partitions that stand at 0, without a broker."""

    def __init__(self) -> None:
        self.subscription = SubscriptionState(loop=get_running_loop())
        self.subscription.subscribe({"t"}, listener=None)
        self.subscription.assign_from_subscribed({A, B})
        self.assignment = self.subscription.subscription.assignment
        for partition in (A, B):
            self.subscription.seek(partition, 0)
        self.fetcher = Fetcher.__new__(Fetcher)
        self.fetcher._subscriptions = self.subscription
        self.fetcher._records = {}
        self.fetcher._closed = False
        self.fetcher._wait_consume_future = None
        self.fetcher._notify = lambda _: None
        self.consumer = BatchConsumer.__new__(BatchConsumer)
        self.consumer._subscription = self.subscription
        self.consumer._fetcher = self.fetcher
        self.consumer._checked = CheckedClient(None)
        self.consumer._checked.doubtful = {A, B}

    def position(self, partition: TopicPartition) -> int:
        state = self.assignment.state_value(partition)
        assert state.has_valid_position
        position: int = state.position
        return position

    def has(self, partition: TopicPartition, raw: bytes) -> None:
        records = PartitionRecords(
            partition, MemoryRecords(raw), [], self.position(partition), None, None, True, READ_COMMITTED
        )
        self.fetcher._records[partition] = FetchResult(
            partition, assignment=self.assignment, partition_records=records, backoff=0
        )

    async def getmany(self, *partitions: TopicPartition, most: int = 1000) -> dict[TopicPartition, list[int]]:
        found = self.consumer._drain(partitions, most)
        return {partition: [record.offset for record in records] for partition, records in found.items()}


async def test_a_position_stands_behind_what_was_given_out() -> None:
    log = Log()
    log.has(A, batch(0, b"a", b"b", b"c") + batch(10, b"k"))
    assert await log.getmany(most=2) == {A: [0, 1]}
    assert log.position(A) == 2
    assert await log.getmany() == {A: [2, 10]}
    assert log.position(A) == 11
    assert await log.getmany() == {}


async def test_partitions_are_asked_one_by_one() -> None:
    log = Log()
    log.has(A, batch(0, b"a"))
    log.has(B, batch(0, b"b"))
    assert await log.getmany(B) == {B: [0]}
    assert (log.position(A), log.position(B)) == (0, 1)


async def test_pausing_drops_what_was_prefetched_and_seeking_makes_it_stale() -> None:
    for change in (log_pause, log_seek):
        log = Log()
        log.has(A, batch(0, b"a"))
        change(log)
        before = log.position(A)
        assert await log.getmany() == {}
        assert log.position(A) == before
        assert not log.fetcher._records


def log_pause(log: Log) -> None:
    log.subscription.pause(A)


def log_seek(log: Log) -> None:
    log.subscription.seek(A, 7)


async def test_a_damaged_batch_moves_others_positions_but_not_its_own() -> None:
    """Others' records are lost to the caller then: Session seeks all partitions back."""
    log = Log()
    log.has(A, batch(0, b"a"))
    raw = bytearray(batch(0, b"b"))
    raw[-1] ^= 1
    log.has(B, bytes(raw))
    with pytest.raises(KafkaError):
        await log.getmany()
    assert (log.position(A), log.position(B)) == (1, 0)


async def test_an_error_waits_until_records_were_given_out() -> None:
    log = Log()
    log.has(A, batch(0, b"a"))
    log.fetcher._records[B] = FetchError(error=OffsetOutOfRangeError({B: 0}), backoff=0)
    assert await log.getmany() == {A: [0]}
    with pytest.raises(OffsetOutOfRangeError) as caught:
        await log.getmany()
    assert set(caught.value.args[0]) == {B}


async def test_a_partition_that_is_not_ours_has_no_state() -> None:
    log = Log()
    assert log.assignment.state_value(TopicPartition("t", 9)) is None
    log.subscription.assign_from_subscribed({B})
    assert not log.subscription.subscription.assignment.state_value(B).has_valid_position


async def test_no_record_is_too_large_to_be_fetched() -> None:
    """From Fetch v3 on brokers never cut a batch in two; below, aiokafka would step over the record."""
    assert (
        min(one.API_VERSION for one in FetchRequest._CLASSES)
        <= 4
        <= max(one.API_VERSION for one in FetchRequest._CLASSES)
    )


# What consumer/offsets.py sends


async def test_requests_of_the_claims() -> None:
    assert parameters(OffsetFetchRequest) == ["consumer_group", "partitions"]
    assert parameters(OffsetCommitRequest) == [
        "consumer_group",
        "consumer_group_generation_id",
        "consumer_id",
        "retention_time",
        "topics",
    ]
    for kind in OffsetFetchRequest._CLASSES:
        fields = kind.RESPONSE_TYPE.SCHEMA.names
        assert "topics" in fields
        assert ("error_code" in fields) == (kind.API_VERSION >= 2)
    assert max(kind.API_VERSION for kind in OffsetFetchRequest._CLASSES) < 8, "from v8 on answers are by group"
    for commit in OffsetCommitRequest._CLASSES:
        assert "topics" in commit.RESPONSE_TYPE.SCHEMA.names


async def test_calls_of_a_client() -> None:
    assert parameters(AIOKafkaClient.send) == ["self", "node_id", "request", "group"]
    assert ConnectionGroup.COORDINATION != ConnectionGroup.DEFAULT
    assert parameters(AIOKafkaClient.coordinator_lookup) == ["self", "coordinator_type", "coordinator_key"]
    assert CoordinationType.GROUP == 0


async def test_node_not_ready_means_never_sent() -> None:
    """GroupOffsets lets a commit be followed by another after this error alone."""
    client = AIOKafkaClient(bootstrap_servers="127.0.0.1:1")
    with pytest.raises(NodeNotReadyError):
        await client.send(5, OffsetCommitRequest("g", 1, "me", -1, []), group=ConnectionGroup.COORDINATION)
    source = inspect.getsource(AIOKafkaClient.send)
    assert source.count("NodeNotReadyError(") == 1
    assert source.index("raise NodeNotReadyError(") < source.index("].send(")
    await client.close()


def test_errors_are_what_they_were() -> None:
    for kind in (NodeNotReadyError, RequestTimedOutError, KafkaConnectionError, GroupCoordinatorNotAvailableError):
        assert issubclass(kind, KafkaError)
    for kind in (RequestTimedOutError, KafkaConnectionError):
        assert not issubclass(kind, NodeNotReadyError | GroupCoordinatorNotAvailableError)
    assert for_code(15) is GroupCoordinatorNotAvailableError
    retriable = {code for code in range(1, 90) if for_code(code).retriable}
    assert {3, 5, 6, 7, 14, 15, 16} <= retriable
    assert not {1, 12, 22, 25, 27, 29, 30} & retriable


# What producer/publisher.py holds


async def test_a_producer_holds_what_closing_needs() -> None:
    producer = AIOKafkaProducer(bootstrap_servers="127.0.0.1:1", acks="all", enable_idempotence=True)
    assert producer._sender.sender_task is None
    assert parameters(producer._sender._fail_all) == ["task"]
    assert parameters(producer._message_accumulator.fail_all) == ["exception"]
    assert isinstance(producer.client, AIOKafkaClient)
    assert parameters(AIOKafkaProducer.send_batch) == ["self", "batch", "topic", "partition"]
    builder = producer.create_batch()
    assert {"timestamp", "key", "value", "headers"} <= set(parameters(builder.append))
    assert builder.append(timestamp=1, key=None, value=b"x", headers=[("a", b"1")]) is not None
    builder.close()
    await producer.stop()
