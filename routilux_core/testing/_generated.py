"""Generated flows, and their answers: everything that may not differ between two strategies.

What a call does follows from the number that it was called with, never from the order of calls. So every strategy has
to come to the same answer.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from attrs import asdict, field

from routilux_core.error_handling import ErrorHandler
from routilux_core.flow import Flow
from routilux_core.ports import event, slot
from routilux_core.routine import Routine
from routilux_core.strategy import ExecutionStrategy

PRIME = 7919
POLICIES = (
    ErrorHandler("continue"),
    ErrorHandler("skip"),
    ErrorHandler("retry", max_retries=1, retry_delay=0.001, after_retries="continue"),
    ErrorHandler("retry", max_retries=2, retry_delay=0.001, after_retries="skip"),
)
Answer = dict[str, Any]


class Odd(Exception):
    """An error that the plan of a flow asks for."""


class Stage(Routine, stateless=True):
    """Emits up to `fan` numbers that follow from the one that came; raises for some."""

    salt: int
    fan: int
    fails: int
    out = event("n")
    more = event("n", "text")

    @slot
    def n(self, n: int) -> None:
        value = (n * 31 + self.salt) % PRIME
        for each in range(value % (self.fan + 1)):
            self.emit("out", n=(value + each) % PRIME)
        if self.fails and value % self.fails == 0:
            raise Odd(f"planted for {n}")
        self.emit("more", n=value, text="x" * (value % 5))


class Tally(Routine):
    """Has state that does not depend on the order of calls."""

    salt: int
    numbers: dict[int, int] = field(factory=dict)
    longest: int = 0
    gathered: list[int] = field(factory=list)
    out = event("n")

    @slot
    def n(self, n: int) -> None:
        self.numbers[n] = self.numbers.get(n, 0) + 1
        self.increment_stat("seen", n)
        self.emit("out", n=(n + self.salt) % PRIME)

    @slot(merge_strategy="append")
    def listed(self, n: list[int]) -> None:
        self.longest = max(self.longest, len(n))

    @slot(merge_strategy="gather")
    def all(self, n: list[int]) -> None:
        self.gathered.append(sum(n))


class Spread(Routine, stateless=True):
    """The entry: emits a seed's numbers."""

    out = event("n")

    @slot
    def n(self, n: int) -> None:
        for each in range(8 + n % 9):
            self.emit("out", n=(n * 101 + each * 17) % PRIME)


def build(seed: int, strategy: str | ExecutionStrategy) -> Flow:
    """Return the flow of a seed: layers of routines, each fed by some before it."""
    chance = random.Random(seed)
    flow = Flow(f"generated-{seed}", strategy, error_handler="continue")
    flow.add_routine(Spread(), "r0")
    kinds = ["spread"]
    for number in range(1, chance.randint(4, 7)):
        with_state = chance.random() < 0.4
        salt = chance.randrange(PRIME)
        routine = Tally(salt=salt) if with_state else Stage(salt=salt, fan=2, fails=chance.choice((0, 3, 5)))
        if chance.random() < 0.6:
            routine.set_error_handler(chance.choice(POLICIES))
        flow.add_routine(routine, f"r{number}")
        for source in chance.sample(range(number), min(number, chance.randint(1, 2))):
            target = chance.choice(("n", "n", "listed", "all")) if with_state else "n"
            sent = chance.choice(("out", "more")) if kinds[source] == "stage" else "out"
            flow.connect(f"r{source}", sent, f"r{number}", target)
        flow.add_output(f"r{number}", "out")
        kinds.append("tally" if with_state else "stage")
    return flow


def answer(seed: int, strategy: str | ExecutionStrategy, patience: float = 60.0) -> Answer:
    """Run two jobs of a seed's flow, and return everything that has to be the same under every strategy."""
    flow = build(seed, strategy)
    try:
        jobs = [flow.execute("r0", {"n": seed + number}) for number in range(2)]
        for job in jobs:
            assert job.wait(patience), f"generated flow {seed} did not end within {patience:g} s: {job.explain()}"
    finally:
        flow.cancel()
        flow.shutdown(timeout=patience)
    found: Answer = {f"job {number}": _job(job) for number, job in enumerate(jobs)}
    for name, routine in flow.routines.items():
        if isinstance(routine, Tally):
            found[name] = {**_state(routine), "stats": routine.stats()}
    return found


def _job(job: Any) -> Answer:
    return {
        "status": job.status,
        "outputs": {name: Counter(payload["n"] for payload in sent) for name, sent in job.outputs.items()},
        "ledger": asdict(job.ledger),
        "errors": Counter((e.routine_id, e.slot, e.attempt, str(e.exception), str(e.decision)) for e in job.errors),
        "states": job.routine_states,
    }


def _state(routine: Tally) -> Answer:
    return {
        "numbers": dict(sorted(routine.numbers.items())),
        "longest": routine.longest,
        "gathered": sorted(routine.gathered),
    }


def differences(expected: Answer, found: Answer) -> str:
    """Return what differs between two answers, in words; nothing if nothing does."""
    return "; ".join(
        f"{part}, {name}: sequential has {expected[part][name]!r}, this strategy {found[part].get(name)!r}"
        for part in expected
        for name in expected[part]
        if expected[part][name] != found[part].get(name)
    )
