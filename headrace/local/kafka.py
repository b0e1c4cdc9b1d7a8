"""One Apache Kafka node (KRaft) on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import subprocess
import uuid
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING, Final

from headrace.errors import HeadraceError
from headrace.local import jars
from headrace.local.java import find_java
from headrace.local.ports import LOOPBACK, free_ports, require_free
from headrace.local.process import Deadline
from headrace.local.progress import Progress, Silent
from headrace.local.server import READY_SECONDS, Server

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


# C1 alone and the serial collector start fastest and stay smallest on a machine that is shared with everything else.
_JVM: Final = ("-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")

PROPERTIES: Final[Mapping[str, str]] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",  # a lone consumer would wait 3 s
    "group.min.session.timeout.ms": "1000",
    "offsets.topic.num.partitions": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "log.retention.ms": "-1",  # records of any timestamp stay; this is for trying, not for keeping house
    "log.cleaner.dedupe.buffer.size": "4194304",  # half of the heap otherwise
    # After a kill -9 the new start waits until the old one's session is over, 9 s by default.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
    "num.network.threads": "2",
    "num.io.threads": "4",
}

_LOG4J: Final = """\
status = error
appender.out.type = Console
appender.out.name = OUT
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{yyyy-MM-dd HH:mm:ss.SSS} %-5p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = OUT
"""


class Kafka(Server):
    """A Kafka of our own, one node."""

    name = "Kafka"

    def __init__(
        self,
        data: Path,
        *,
        port: int | None = None,
        controller_port: int | None = None,
        properties: Mapping[str, str] | None = None,
        log: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        """`properties` overrules server properties; ports that are not given are free ones."""
        super().__init__(data.absolute(), log or data.absolute() / "kafka.log")
        spare = free_ports(2, but=frozenset({port or 0, controller_port or 0}))
        self.port = port or spare[0]
        self.controller_port = controller_port or spare[1]
        self._properties = dict(properties or {})
        self._progress = progress or Silent()
        self._class_path: str | None = None

    @property
    def bootstrap(self) -> str:
        """host:port, for KAFKA_BOOTSTRAP_SERVERS."""
        return f"{LOOPBACK}:{self.port}"

    def spawn(self) -> None:
        """Start without waiting."""
        if self._class_path is None:
            self._class_path = jars.class_path(self._progress, jars.BROKER)
        java = str(find_java())
        require_free(self.port, "Kafka", "choose another port (headrace up --kafka-port)")
        require_free(self.controller_port, "Kafka's controller", "start again")
        self.data.mkdir(parents=True, exist_ok=True)
        jars.require_space(self.data, 100_000_000, "Kafka's data")
        config = self._write_config()
        command = [
            java,
            *_JVM,
            f"-Dlog4j2.configurationFile={self.data / 'log4j2.properties'}",
            "-Djava.awt.headless=true",
            "-cp",
            self._class_path,
        ]
        if not (self.data / "logs" / "meta.properties").exists():
            self._format(command, config)
        self._run("Kafka", [*command, "kafka.Kafka", str(config)])

    def answers(self) -> bool:
        """Whether it answers a client's Metadata request with itself as a live broker."""
        return answers(LOOPBACK, self.port)

    def tool(self, main_class: str, *arguments: str, timeout: float = 60) -> str:
        """Run one of Kafka's own command-line tools, e.g. org.apache.kafka.tools.consumer.group.ConsumerGroupCommand.

        Returns what it prints; raises HeadraceError with it when it fails.
        """
        answer = run_tool(main_class, *arguments, timeout=timeout, progress=self._progress)
        if answer.returncode != 0:
            raise HeadraceError(f"{main_class} {' '.join(arguments)} failed:\n{answer.stdout}{answer.stderr}")
        return answer.stdout

    def _write_config(self) -> Path:
        properties = {
            **PROPERTIES,
            "controller.quorum.voters": f"1@{LOOPBACK}:{self.controller_port}",
            "listeners": f"PLAINTEXT://{LOOPBACK}:{self.port},CONTROLLER://{LOOPBACK}:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{self.port}",
            "log.dirs": str(self.data / "logs"),
            **self._properties,
        }
        config = self.data / "server.properties"
        config.write_text("".join(f"{name}={_escaped(value)}\n" for name, value in properties.items()))
        (self.data / "log4j2.properties").write_text(_LOG4J)
        return config

    def _format(self, command: Sequence[str], config: Path) -> None:
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")  # no leading dash
        arguments = ["kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(config), "--ignore-formatted"]
        self._run("Kafka's format", [*command, *arguments])
        child = self.child
        try:
            deadline = Deadline(READY_SECONDS)
            while not child.wait(0.1) and not deadline.passed:
                self.check()
            if child.exit_code != 0:
                raise self._failed(f"could not prepare {self.data}")
        finally:
            child.kill()


def run_tool(
    main_class: str, *arguments: str, timeout: float = 60, progress: Progress | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one of Kafka's command-line tools and return what it said, whatever its exit code."""
    class_path = jars.class_path(progress or Silent(), jars.BROKER, jars.TOOLS)
    return subprocess.run(  # noqa: S603 - our own commands
        [str(find_java()), *_JVM, "-cp", class_path, main_class, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def _escaped(value: str) -> str:
    """A value in a Java properties file."""
    return value.replace("\\", "\\\\").replace("\n", "\\n")


def answers(host: str, port: int) -> bool:
    """Whether a client can bootstrap there, and a live broker is named in the answer."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=1) as pool:  # a loop of its own, also when the caller runs in one
        return pool.submit(asyncio.run, _bootstrap(f"{host}:{port}")).result()


async def _bootstrap(address: str) -> bool:
    from aiokafka.client import AIOKafkaClient
    from aiokafka.errors import KafkaError

    logging.getLogger("aiokafka").addFilter(_quiet)
    client = AIOKafkaClient(bootstrap_servers=address, request_timeout_ms=2000)
    try:
        await client.bootstrap()
        return bool(client.cluster.brokers())
    except (KafkaError, OSError, TimeoutError):
        return False
    finally:
        with contextlib.suppress(KafkaError, OSError):
            await client.close()
        logging.getLogger("aiokafka").removeFilter(_quiet)


def _quiet(record: logging.LogRecord) -> bool:
    """While we knock at a door that isn't open yet, a refusal is no news."""
    return record.levelno >= logging.CRITICAL
