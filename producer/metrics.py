"""What the producer tells at /metrics. Plain numbers on the hot path, made into metrics only when somebody asks."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, Protocol

from prometheus_client import REGISTRY, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sized

    from prometheus_client.metrics_core import Metric

    from producer.batches import Budget


class TopicTally(Protocol):
    """What is told of a topic."""

    acknowledged: int
    """Payloads."""

    @property
    def is_open(self) -> bool: ...


class Tally(Collector):
    """Counts since the process began."""

    def __init__(self) -> None:
        self.requests: Counter[int] = Counter()
        self.payloads = 0
        self.bytes = 0
        self.batches = 0
        self.replacements = 0
        self.transactions: Counter[bool] = Counter()
        """Those that were committed (True), and those that were not, or nobody knows."""
        self.budget: Budget | None = None
        """Whose fill is told; the intakes'."""
        self.topics: Mapping[str, TopicTally] = {}
        self.connections: Sized = ()
        """Those that are open now; the server's."""

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "headrace_producer_requests", "requests to /payloads by status", labels=["status"]
        )
        for status, count in sorted(self.requests.items()):
            requests.add_metric([str(status)], count)
        yield requests
        for name, text, value in (
            ("payloads", "payloads that Kafka acknowledged", self.payloads),
            ("payload_bytes", "bytes of payloads that Kafka acknowledged", self.bytes),
            ("batches", "record batches that Kafka acknowledged", self.batches),
            ("replacements", "Kafka producers that failed for good and were replaced", self.replacements),
        ):
            yield CounterMetricFamily(f"headrace_producer_{name}", text, value)
        transactions = CounterMetricFamily(
            "headrace_producer_transactions", "Kafka transactions of keyed requests", labels=["outcome"]
        )
        for committed in (True, False):
            transactions.add_metric(["committed" if committed else "failed"], self.transactions[committed])
        yield transactions
        yield GaugeMetricFamily("headrace_producer_connections", "connections that are open", len(self.connections))
        yield from self._of_topics()
        if self.budget is None:
            return
        yield GaugeMetricFamily(
            "headrace_producer_waiting_payloads", "payloads that Kafka has not acknowledged yet", self.budget.payloads
        )
        yield GaugeMetricFamily(
            "headrace_producer_waiting_bytes", "bytes of the memory budget that are taken", self.budget.bytes
        )

    def _of_topics(self) -> Iterator[Metric]:
        payloads = CounterMetricFamily(
            "headrace_producer_topic_payloads", "payloads that Kafka acknowledged, by topic", labels=["topic"]
        )
        is_open = GaugeMetricFamily(
            "headrace_producer_topic_open", "1 while the topic can be published to", labels=["topic"]
        )
        for topic, tally in self.topics.items():
            payloads.add_metric([topic], tally.acknowledged)
            is_open.add_metric([topic], tally.is_open)
        yield payloads
        yield is_open


TALLY: Final = Tally()
REGISTRY.register(TALLY)

PUBLISH_SECONDS: Final = Histogram(
    "headrace_producer_publish_seconds",
    "from handing a batch to the Kafka client to its acknowledgement",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
