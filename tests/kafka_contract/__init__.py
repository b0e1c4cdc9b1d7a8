"""What the simulation takes for granted of Kafka. Every case runs on its fake and on the real thing, driven alike.

Requests are aiokafka's own, sent over a connection a member; records come through the archiver's own `Source`.
"""

from tests.kafka_contract import commits, groups, logs
from tests.kafka_contract.side import CASES

__all__ = ["CASES", "commits", "groups", "logs"]
