"""What a job is waiting for, and what costs it time, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import inf
from time import monotonic

from routilux_core._engine.plan import INLET, JOB, Inlet, Item, Node
from routilux_core._engine.roles import SchedulerRole
from routilux_core._engine.run import Run
from routilux_core._routines.attributes import owner_of
from routilux_core._text.printable import printable
from routilux_core._threads.guard import guarded
from routilux_core._tracking.history import Totals

ENOUGH = 20  # activations before a hint is worth giving


def explain(run: Run, status: str) -> str:
    """Return a line for the state, one for each thing waited for, and the hints."""
    with run.engine.up_to_date((run,)):
        said = [f"the reason given: {printable(run.ledger.reason)}"] if run.ledger.reason else []
        lines = [_headline(run, status), *said, *_waiting(run), *_busy(run), *_waited_for(run)]
        totals = run.ledger.history.totals()
        nodes = [run.own.get(node, node) for node in run.engine.nodes.values()]
    blocked = [node for node in nodes if node.told_blocked]
    return "\n".join([*lines, *hints(totals, run.engine.inlets), *map(_blocking, blocked)])


def _blocking(node: Node) -> str:
    return (
        f"hint: {node.routine_id!r}: a handler kept its event loop from all others for {node.told_blocked:.3g} s; "
        "await what waits, or make it a plain `def`, which runs in a thread"
    )


@guarded
def _busy(run: Run) -> list[str]:
    return [
        f"strategy {scheduler.strategy.name!r}: its pool is busy, and {_seconds_until(scheduler.crew.pause.when)}"
        for scheduler in run.engine.schedulers
        if scheduler.crew.pause is not None
    ]


def _seconds_until(when: float) -> str:
    left = max(0.0, when - monotonic())
    return "says when it is not" if left == inf else f"is asked again in {left:.3g} s"


def _waited_for(run: Run) -> list[str]:
    # A copy: who waits is listed, and struck off, without the lock.
    owners = [owner_of(frame.routine) for frame in run.ending.waiters.copy() if frame.routine is not None]
    return [f"waited for by routine {owner[1]!r} of flow {owner[0]!r}" for owner in owners if owner is not None]


def _headline(run: Run, status: str) -> str:
    counts = f"{run.ledger.pending} of {run.ledger.last} activations are pending, {run.ledger.over} are done"
    return f"job {printable(run.job_id)} is {status}: {counts}"


def _waiting(run: Run) -> list[str]:
    lines = []
    queued, unasked = (
        Counter(
            item[INLET].node.routine_id
            for scheduler in schedulers
            for item in scheduler.ready.queued()
            if item[JOB] is run
        )
        for schedulers in _by_who_works(run)
    )
    behind = Counter(item[INLET].node.routine_id for item in _behind(run) if item[JOB] is run)
    retries = Counter(item[INLET].node.routine_id for _, item, _ in run.retries.waiting.values())
    parked = Counter(item[INLET].node.routine_id for item in (*run.parked, *run.retries.parked))
    running = run.ledger.pending - len(run.retries) - len(run.parked)
    running -= sum(queued.values()) + sum(unasked.values()) + sum(behind.values())
    for counts, text in (
        (queued, "queued for a worker"),
        (unasked, "queued for a thread that waits: job.wait() or flow.wait_for_completion()"),
        (behind, "queued behind a call of the same routine"),
        (retries, "waiting for a retry"),
        (parked, "set aside until resume()"),
    ):
        lines += [f"{routine_id!r}: {count} {text}" for routine_id, count in counts.items()]
    if running > 0:
        lines.append(f"{running} running now")
    if run.slots.arrivals:
        names = ", ".join(printable(f"{inlet.node.routine_id}.{inlet.name}") for inlet in run.slots.arrivals)
        lines.append(f"gathered for the end of the job: {names}")
    return lines


@guarded
def _by_who_works(run: Run) -> tuple[list[SchedulerRole], list[SchedulerRole]]:
    """Return the queues that workers work off, and those that are left to who waits, while nobody does."""
    mine = [
        scheduler
        for scheduler in run.engine.schedulers
        if scheduler.pool is not None and scheduler.pool.in_caller and not scheduler.crew.active
    ]
    return [scheduler for scheduler in run.engine.schedulers if scheduler not in mine], mine


@guarded
def _behind(run: Run) -> Iterator[Item]:
    """Yield what waits for a permit, or behind a call of a worker that has one for all of it."""
    for node in run.engine.all_nodes():
        yield from node.mailbox.waiting.copy()  # others may append
    for hand in run.engine.hands():
        yield from hand.claimed.copy()  # its worker takes from there


def hints(totals: Mapping[int, Totals], inlets: Sequence[Inlet]) -> list[str]:
    """Return what would make jobs faster: routines whose calls wait for each other."""
    found = []
    for slot, total in totals.items():
        node = inlets[slot].node
        if _serialised(node, total):
            wait = total.queue_wait / total.executions
            found.append(
                f"hint: {node.routine_id!r}: {total.executions} activations one at a time, mean queue wait {wait:.3g} "
                "s; declare it stateless (class keyword stateless=True) if it keeps nothing between calls"
            )
    return found


def _serialised(node: Node, total: Totals) -> bool:
    """Whether the calls of a routine with state waited mainly for each other, where workers could have run them."""
    return (
        node.mailbox.limit == 1
        and node.scheduler.strategy.capabilities.parallel
        and total.executions >= ENOUGH
        and total.queue_wait > 2 * total.run_time
        and total.run_time > 0.001 * total.executions
    )
