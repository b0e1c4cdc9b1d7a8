"""A request on its way to Kafka, whole or in parts, and what became of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from producer.errors import Kind, Problem
from producer.records import places

if TYPE_CHECKING:
    from collections.abc import Sequence

    from producer.batches import Request
    from producer.intake import Intake
    from producer.records import Part, Place

UNKNOWN: Final = "The payloads may be in Kafka or come there still; sending them again may double them."


class Publication:
    """Records that were handed over."""

    __slots__ = ("_parts", "outcome")

    def __init__(self, outcome: asyncio.Future[None], parts: Sequence[Part]) -> None:
        self.outcome = outcome
        """Like that of Intake.submit."""
        self._parts = parts

    def places(self) -> list[Place]:
        """Where each record is, in the order of the request; ask when the outcome is there, and good."""
        return places(self._parts)


@dataclass(slots=True, eq=False)
class Bundle:
    """A request in several parts; each one's `part` tells its partition."""

    intake: Intake
    whole: Request
    """Without payloads: what is to be answered, and given back."""
    parts: Sequence[Request]


def settle(request: Request, problem: Problem | None) -> None:
    """Tell the outcome of a request, unless it was told before."""
    if request.outcome.done():
        return
    if problem is None:
        request.outcome.set_result(None)
    else:
        request.outcome.set_exception(problem)


def joint_outcome(outcomes: Sequence[asyncio.Future[None]]) -> asyncio.Future[None]:
    """The outcome of a request in parts that know nothing of each other. Good when all are.

    Where a part failed, others may be in Kafka: unless all say that nothing was published, nobody knows.
    """
    whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    left = len(outcomes)

    def notice(_: asyncio.Future[None]) -> None:
        nonlocal left
        left -= 1
        if left:
            return
        problems = [problem for outcome in outcomes if isinstance(problem := outcome.exception(), Problem)]
        if whole.done():
            return
        if not problems:
            whole.set_result(None)
        elif len(problems) == len(outcomes) and all(problem.kind is not Kind.OUTCOME_UNKNOWN for problem in problems):
            whole.set_exception(problems[0])
        else:
            whole.set_exception(
                Problem(
                    Kind.OUTCOME_UNKNOWN,
                    f"{len(problems)} of {len(outcomes)} partitions took their part of the request not, or may have "
                    f"(KEYED_REQUESTS=separate): {problems[0].detail} {UNKNOWN}",
                )
            )

    for outcome in outcomes:
        outcome.add_done_callback(notice)
    return whole
