"""One run of chaos: a stack of its own, load, harm, healing, judgement."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from headrace.local.ports import free_ports
from tests.chaos.cast import Cast, Member, tails
from tests.chaos.faults import Havoc, Weather
from tests.chaos.ledger import Ledger
from tests.chaos.load import HttpLoad, NativeLoad, Outcome
from tests.chaos.oracle import Watch, judge
from tests.chaos.plan import Kind, draw_limits, draw_setting, draw_steps
from tests.chaos.report import Report, outcomes
from tests.s3_proxy import s3_proxy
from tests.services import own_stack
from tests.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from headrace.s3 import S3Store
    from tests.chaos.plan import Setting
    from tests.s3_proxy import S3Proxy
    from tests.services import OwnStack

WHOLE_SECONDS: Final = 180.0
"""After healing, everything is stored within this time, on a busy machine too."""


@dataclass(frozen=True, slots=True)
class Options:
    """`keep`: the logs, also when nothing was violated. `short`: the form for CI. `only`: no other kinds of harm.

    `minutes`: go on for at least so long.
    """

    seed: int
    faults: int = 200
    minutes: float = 0.0
    short: bool = False
    mutant: str | None = None
    keep: bool = False
    only: frozenset[Kind] | None = None
    say: Callable[[str], None] = lambda _: None
    names: Mapping[str, str] | None = None
    """Format and layout (FORMAT, OBJECT_PATH, …), and any other of the consumers' settings; None: the seed's."""
    load: float | None = None
    """The share of the full load; None: what the format can carry."""


async def chaos(options: Options) -> Report:
    """Run it all. The report tells what was violated; logs of the processes are kept when something was."""
    for noisy in ("aiokafka", "asyncio", "httpx"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    setting = draw_setting(options.seed, short=options.short, names=options.names, load=options.load)
    report = Report(options.seed, options.mutant, setting.consumers, setting.partitions, setting.load, setting.settings)
    folder = Path(tempfile.mkdtemp(prefix=f"headrace-chaos-{options.seed}-"))
    try:
        with own_stack() as stack:
            await _on_stack(options, setting, stack, folder, report)
    finally:
        if report.violations or report.verdict is None or options.keep:
            report.logs = str(folder)
            if report.violations and options.mutant is None:
                report.tails = tails(sorted(folder.glob("*.log")), 4000)
        else:
            shutil.rmtree(folder)
    return report


async def _on_stack(options: Options, setting: Setting, stack: OwnStack, folder: Path, report: Report) -> None:
    topic = f"chaos-{options.seed}"
    trial = Trial(stack.environment, topic, "archive", setting.partitions, folder)
    await trial.create_topic()
    sky = Weather(options.seed, setting)
    async with (
        trial.store() as store,
        s3_proxy(stack.s3.endpoint, sky, stall_seconds=3 * setting.upload_timeout) as proxy,
    ):
        run = _Run(options, setting, stack, trial, store, proxy, sky, report)
        try:
            await run.whole()
        finally:
            run.consumers.kill_all()
            run.producers.kill_all()


class _Run:
    """The parts of one run, and its acts in their order."""

    def __init__(
        self,
        options: Options,
        setting: Setting,
        stack: OwnStack,
        trial: Trial,
        store: S3Store,
        proxy: S3Proxy,
        sky: Weather,
        report: Report,
    ) -> None:
        self._options = options
        self._setting = setting
        self._stack = stack
        self._trial = trial
        self._store = store
        self._proxy = proxy
        self._sky = sky
        self._report = report
        self.consumers = Cast()
        self.producers = Cast()
        ports = free_ports(2)
        self.producers.members = [self._producer(number, port) for number, port in enumerate(ports)]
        for _ in range(setting.consumers):
            self.consumers.members.append(self._consumer())
        kafka = trial.kafka_settings.kafka_options()
        self._ledger = Ledger(kafka, trial.tps)
        self._watch = Watch(trial, store)
        self._http = HttpLoad([f"http://127.0.0.1:{port}" for port in ports], options.seed, share=setting.load)
        self._native = NativeLoad(kafka, trial.topic, options.seed, share=setting.load)

    def _consumer(self) -> Member:
        number = len(self.consumers.members)
        own = {
            "KAFKA_TOPIC": self._trial.topic,
            "KAFKA_GROUP": self._trial.group,
            "S3_PREFIX": self._trial.prefix,
            "AWS_ENDPOINT_URL_S3": self._proxy.endpoint,
        }
        mutant = self._options.mutant
        return Member(
            f"consumer {number}",
            ["consumer"] if mutant is None else ["tests.chaos.mutant", mutant],
            {
                **self._trial.environment,
                **own,
                **self._setting.settings,
                **draw_limits(self._options.seed, number),
            },
            self._trial.folder / f"consumer-{number}.log",
            # Draining, leaving the group while Kafka is away (consumer/source.close), and a busy machine.
            self._setting.drain + 4 * self._setting.session_timeout + 15,
        )

    def _producer(self, number: int, port: int) -> Member:
        own = {
            "KAFKA_TOPIC": self._trial.topic,
            "HTTP_PORT": str(port),
            "REQUEST_TIMEOUT_SECONDS": "4",
            "DRAIN_SECONDS": "5",
        }
        log = self._trial.folder / f"producer-{number}.log"
        return Member(f"producer {number}", ["producer"], {**self._trial.environment, **own}, log, 25)

    async def whole(self) -> None:
        """Load and harm; then heal, wait until all is stored, and judge."""
        began = time.monotonic()
        for member in self.producers.members + self.consumers.members:
            member.start()
        async with asyncio.TaskGroup() as observers:  # one that dies ends the run: nothing would be seen any more
            observing = [observers.create_task(it) for it in (self._ledger.read(), self._watch.run())]
            try:
                await self._harm(began)
                await self._heal()
                await self._settle()
            finally:
                for task in observing:
                    task.cancel()
                await asyncio.gather(*observing, return_exceptions=True)
                self._tell(began)
        self._report.verdict = await judge(self._trial, self._store, self._ledger, self._http, self._native)
        self._report.violations += self._report.verdict.findings
        await self._verify()

    async def _harm(self, began: float) -> None:
        options = self._options
        havoc = Havoc(
            trial=self._trial,
            stack=self._stack,
            consumers=self.consumers,
            producers=self.producers,
            new_consumer=self._consumer,
            weather=self._sky,
            watch=self._watch,
            settle_seconds=self._setting.settle_seconds,
            say=options.say,
        )
        stop = asyncio.Event()

        def enough() -> bool:
            return havoc.done.total() >= options.faults and time.monotonic() - began >= 60 * options.minutes

        async with asyncio.TaskGroup() as group:
            group.create_task(self._http.run(stop))
            group.create_task(self._native.run(stop))
            try:
                while not self._watch.stored:
                    await asyncio.sleep(0.1)
                steps = draw_steps(options.seed, options.faults, short=options.short, only=options.only)
                await havoc.run(steps, enough)
            finally:
                stop.set()
        self._report.faults = {kind.value: havoc.done[kind] for kind in Kind if havoc.done[kind]}

    async def _heal(self) -> None:
        """Fair weather; the producers leave, so that nothing comes any more."""
        self._sky.clear = True
        self._report.stored_before_healing = self._watch.stored
        self._options.say("healed; waiting until all is stored")
        for member in self.producers.members:
            await member.end()

    async def _settle(self) -> None:
        began = time.monotonic()
        try:
            await self._trial.stored(WHOLE_SECONDS)
        except AssertionError:
            self._report.violations.append(
                f"not whole within {WHOLE_SECONDS:.0f} s of healing: {await self._trial.committed()} "
                f"of {await self._trial.log_ends()}"
            )
        else:
            self._report.seconds_until_whole = time.monotonic() - began
        for member in self.consumers.members:
            await member.end()
        await self._proxy.landed()
        ends = {tp.partition: end for tp, end in (await self._trial.log_ends()).items()}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(30):
                while self._ledger.ends() != ends:
                    await asyncio.sleep(0.1)
        if self._ledger.ends() != ends:
            self._report.violations.append(f"the log ends at {ends}, but was read up to {self._ledger.ends()}")
        await self._watch.sample()

    def _tell(self, began: float) -> None:
        report, http = self._report, self._http
        report.seconds = time.monotonic() - began
        report.s3_faults = {fault.value: count for fault, count in self._proxy.seen.most_common()}
        report.requests = outcomes({outcome: http.requests(outcome) for outcome in Outcome})
        report.payloads = outcomes({outcome: http.payloads(outcome) for outcome in Outcome})
        report.answers = dict(http.answers.most_common())
        report.sent_again = http.again
        report.native_sent, report.native_acknowledged = self._native.sent, len(self._native.acknowledged)
        report.consumer_ends, report.producer_ends = dict(self.consumers.ends()), dict(self.producers.ends())
        report.samples = self._watch.samples
        said: Counter[str] = Counter()
        for member in self.consumers.members + self.producers.members:
            text = member.log.read_text(errors="replace") if member.log.exists() else ""
            said["assignments"] += len(re.findall(r"generation \d+: \d+ partitions", text))
            said["quiet"] += text.count("until no former owner's upload can land")
            for bad in ("Traceback", "has stopped:", "never retrieved"):
                if bad in text:
                    line = next(line for line in text.splitlines() if bad in line)
                    report.violations.append(f"{member.name} logged: {line}")
        report.assignments, report.quiet_waits = said["assignments"], said["quiet"]
        for part in (self._ledger, self._watch, self._http):
            report.violations += part.complaints
        report.violations += self.consumers.complaints() + self.producers.complaints()

    async def _verify(self) -> None:
        own = {"KAFKA_TOPIC": self._trial.topic, "S3_PREFIX": self._trial.prefix}
        log = self._trial.folder / "verify.log"
        member = Member("verify", ["headrace", "verify"], {**self._trial.environment, **own}, log, 0)
        member.start()
        assert member.child is not None
        ended = await asyncio.to_thread(member.child.wait, 120)
        text = log.read_text()
        self._report.verify = text.strip().splitlines()[-1] if text.strip() else "said nothing"
        if not ended or member.child.exit_code != 0:
            self._report.violations.append(f"headrace verify ended with {member.child.exit_code}:\n{text}")
        member.child.kill()
