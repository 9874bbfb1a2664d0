"""Back-pressure: what `emit` does when more than `max_pending` waits where it has just put something."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter, sleep

from routilux_core._engine.plan import INLET, Node
from routilux_core._local.emitter import CallState, Emitter
from routilux_core._routines.frame import Frame

DEPTH = 3  # how many handlers deep `emit` runs waiting work itself
TURN_S = 0.005  # that one such turn lasts
AT_ONCE = (64, 512)  # activations in it between two looks at the clock: at first, and where they are short
NAPS_S = (0.0, 0.0001, 0.0005, 0.002)  # that an emitter waits for somebody else to work off what waits


def relieve(worker: Emitter, node: Node) -> None:
    """Work off some of what waits, or wait a little, when more than `max_pending` is queued."""
    relieve_by(worker, node, _work_off, nap)


def relieve_by(
    worker: Emitter,
    node: Node,
    work_off: Callable[[Emitter, Node, int, float], bool],
    give_up: Callable[[Emitter, Node, int], None],
) -> None:
    """Work off some of what waits in the one way, or give that up in the other, when too much is queued.

    What is worked off may emit as much as it takes away, and does so where each event has a second hop: then no less
    waits for a while, and that is no reason to give up. So that it does not work off what waits in its turn, three
    handlers deep, more may wait for those that run in here.

    What is looked at here is read without the lock: it tells about how much waits, and an old value costs a turn too
    many or too few.
    """
    scheduler = node.scheduler
    mark = (node.mark or worker.scheduler.engine.max_pending) * (worker.depth + 1)
    if _is_within(node, mark) or scheduler.ready.chosen:
        return
    call = worker.call
    if call is None:
        call = worker.call = CallState()
    # Handlers that run from here on are not the time of this call: its record, and its time-out, leave them out.
    began = call.lending = perf_counter()
    ran_any = False
    if scheduler is worker.scheduler and worker.depth < DEPTH:
        worker.take_permit()
        ran_any = work_off(worker, node, mark // 2, began + TURN_S)
    if not ran_any and not _is_within(node, mark):  # else others have worked it off
        give_up(worker, node, mark)
    # Two stores, without the lock. The timers' thread, which reads them for a deadline, may come in between: it finds
    # too much lent then, and looks again a little later.
    call.lent, call.lending = call.lent + perf_counter() - began, 0.0


def waits_with(node: Node) -> int:
    """Return how much is queued with a node, and for it, without the lock: about."""
    return node.scheduler.ready.backlog() + len(node.mailbox.waiting)


def raise_mark(worker: Emitter, node: Node, mark: int) -> None:
    """Let more wait with a node: nobody works it off, perhaps because all wait for each other."""
    # Two plain steps without the lock. Two that raise it at once double the same mark, and list it twice: no matter,
    # since it is set back when a job ends.
    node.mark = 2 * mark
    worker.scheduler.engine.raised.append(node)


def _is_within(node: Node, mark: int) -> bool:
    """Return whether no more than that is queued with a node, and for it, without the lock: about."""
    return node.scheduler.ready.backlog() <= mark and len(node.mailbox.waiting) <= mark


def _work_off(worker: Emitter, node: Node, enough: int, until: float) -> bool:
    """Run what waits, in a worker nested in this one, until few enough wait or the turn is over; return if any ran."""
    nested, at_once, ran = type(worker)(worker.scheduler, worker), AT_ONCE[0], 0
    while waits_with(node) > enough:
        more = nested.work(at_once)
        ran += more
        if not more or perf_counter() > until:
            break
        at_once = AT_ONCE[1]
    return ran > 0


def nap(worker: Emitter, node: Node, mark: int) -> None:
    """Give other threads the time to work off what waits, if they can; go on if they don't."""
    crew = node.scheduler.crew
    is_alone = crew.workers == 1 or (crew.held and crew.active == 1 and node.scheduler is worker.scheduler)
    if not is_alone and node not in _nodes_held(worker):
        for seconds in NAPS_S:
            sleep(seconds)
            if _is_within(node, mark):
                return
    raise_mark(worker, node, mark)


def _nodes_held(worker: Emitter) -> set[Node]:
    """Return the nodes whose handlers are on this thread's stack."""
    found: set[Node] = set()
    frame: Frame | None = worker
    while isinstance(frame, Emitter):
        if frame.item is not None:
            found.add(frame.item[INLET].node)
        frame = frame.outer
    return found
