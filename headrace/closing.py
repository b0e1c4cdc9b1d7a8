"""How a producer of aiokafka's is closed when nobody waits for what it has left."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from aiokafka.errors import ProducerClosed

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

logger = logging.getLogger(__name__)


async def close_producer(producer: AIOKafkaProducer) -> None:
    """Close a producer that nobody waits for, within two seconds or so, whether Kafka is there or not.

    aiokafka's stop() sends what is left for as long as it takes, and cancelled half-way it leaves its sender running:
    so nothing is left first, and connections are cut when replies don't come. What its sender says to that is no news.
    """
    sender = producer._sender  # noqa: SLF001 - there is no public way
    if sender.sender_task is not None:
        sender.sender_task.remove_done_callback(sender._fail_all)  # noqa: SLF001 - as above
    _expect_errors(producer._message_accumulator)  # noqa: SLF001 - as above
    transaction = getattr(producer._txn_manager, "_transaction_waiter", None)  # noqa: SLF001 - as above
    if transaction is not None:
        transaction.add_done_callback(expected)
    producer._message_accumulator.fail_all(ProducerClosed())  # noqa: SLF001 - as above
    stopping = asyncio.ensure_future(producer.stop())
    await asyncio.wait([stopping], timeout=1)
    if not stopping.done():
        await producer.client.close()
        await asyncio.wait([stopping], timeout=1)
    stopping.cancel()
    await asyncio.wait([stopping])
    if not stopping.cancelled() and (error := stopping.exception()) is not None:
        logger.debug("A Kafka producer did not close cleanly", exc_info=error)


def _expect_errors(accumulator: Any) -> None:
    """Batches that are left will fail, and nobody waits for them any more: nothing for the log.

    One that waits to be sent again isn't among the pending ones, where aiokafka looks for it when it fails.
    """
    pending = accumulator._pending_batches  # noqa: SLF001 - there is no public way
    waiting = [batch for batches in accumulator._batches.values() for batch in batches]  # noqa: SLF001 - as above
    for batch in (*pending, *waiting):
        for future in (batch.future, batch._drain_waiter):  # noqa: SLF001 - as above
            future.add_done_callback(expected)
    pending.update(batch for batch in waiting if batch.retry_count > 0)


def expected(done: asyncio.Future[Any]) -> None:
    """A callback for a future that may fail though nobody waits for it: nothing for the log."""
    if not done.cancelled():
        done.exception()
