"""One job's run: posting, the ledger, completion, gathering, retries, stop, pause, and what its JobState shows."""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import Context
from time import perf_counter
from typing import TYPE_CHECKING

from routilux_core._binding import Payload
from routilux_core._context import check_outside
from routilux_core._history import RETRIED, SKIPPED, Note, Totals, records
from routilux_core._plan import Inlet, Item, Node, Outlet, rename
from routilux_core.error_handling import ErrorStrategy, Failure
from routilux_core.job import ActivationRecord, Ledger

if TYPE_CHECKING:
    from routilux_core._dispatch import Dispatcher, WorkQueue
    from routilux_core._timers import Timer
    from routilux_core.routine import Routine

GATHERED = "gathered payloads"  # the key under which a gather slot's arrivals travel to its one call
GRAVITY = {"skipped": 1, "error_continued": 2, "failed": 3}


class Completion:
    """Set once, when a job has ended; wakes whoever waits, at once."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        return self._event.wait(timeout)

    def set(self) -> None:
        with self._lock:
            self._event.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def add_callback(self, callback: Callable[[], None], /) -> None:
        """Call back when set: at once if that was before. The callback must not block."""
        with self._lock:
            if not self._event.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def remove_callback(self, callback: Callable[[], None], /) -> None:
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)


class Run:
    """The live side of a job. What is marked "lock" is called with the dispatcher's lock held."""

    __slots__ = (
        "arrivals",
        "at_rest",
        "attempts",
        "began",
        "collected",
        "context",
        "decided",
        "discarded",
        "done",
        "emitted",
        "ended",
        "failed",
        "failures",
        "final",
        "finished",
        "flow_id",
        "gathered",
        "halted",
        "hub",
        "job_id",
        "keeps_notes",
        "last",
        "late",
        "merged",
        "merged_by",
        "notes",
        "open",
        "own",
        "parked",
        "parked_retries",
        "paused",
        "plain",
        "posted",
        "retried",
        "retrying",
        "skipped",
        "stopped",
        "totals",
        "unconnected",
    )

    def __init__(self, hub: Dispatcher, job_id: str, flow_id: str, history_size: int, context: Context | None) -> None:
        self.hub = hub
        self.job_id = job_id
        self.context = context
        self.plain = context is None
        self.last = 0  # the newest activation's number; ahead of `posted` by what lies in outboxes
        self.posted = self.open = self.emitted = self.unconnected = self.gathered = 0
        self.failed = self.skipped = self.discarded = self.retried = self.late = 0
        self.stopped = self.paused = self.halted = self.ended = self.finished = False
        self.final = "completed"
        self.done = Completion()
        self.at_rest: Completion | None = None  # while a caller works on this job: set when it ends or is paused
        self.totals: dict[Inlet, Totals] = {}
        self.notes: deque[Note] = deque(maxlen=history_size)
        self.keeps_notes = history_size > 0
        self.failures: deque[Failure] = deque(maxlen=max(history_size, 100))
        self.decided: dict[str, str] = {}  # routine id -> the gravest decision
        self.collected: dict[str, list[Payload]] = {}
        self.merged: dict[Inlet, Payload] = {}
        self.merged_by: set[int] = set()  # activations that may be tried again and have merged what they brought
        self.arrivals: dict[Inlet, list[Payload]] = {}
        self.attempts: dict[int, int] = {}  # of activations that were tried before
        self.retrying: dict[int, tuple[Timer, Item, bool]] = {}
        self.parked: list[Item] = []
        self.parked_retries: list[Item] = []  # with their permits
        self.own: dict[Node, Node] = {}
        self.began = perf_counter()
        self.flow_id = flow_id

    # -- posting (lock)

    def post(self, inlet: Inlet, payload: Payload, cause: int, now: float) -> None:
        """Queue one activation, or keep what arrives at a gather slot. Lock."""
        if inlet.node.per_job:
            inlet = self.node_for(inlet.node).inlets[inlet.name]
        if inlet.gathers:
            self.gathered += 1
            if not self.stopped:
                self.arrivals.setdefault(inlet, []).append(payload)
            return
        self._queue(inlet, payload, cause, now)

    def _queue(self, inlet: Inlet, payload: Payload, cause: int, now: float) -> None:
        queue = inlet.node.queue
        self.last = number = self.last + 1
        self.posted += 1
        if self.stopped:
            self.discarded += 1
            return
        self.open += 1
        queue.ready.append((inlet, payload, self, number, cause, now))
        if queue.active < queue.workers and not queue.recruiting:
            queue.call()

    def send(self, outlet: Outlet, data: Payload, cause: int, now: float) -> None:
        """Post one emission to everything that it is connected to. Lock."""
        self.emitted += 1
        for inlet, mapping in outlet.targets:
            self.post(inlet, data if mapping is None else rename(data, mapping), cause, now)
        if outlet.outputs and not self.stopped:
            for name in outlet.outputs:
                self.collected.setdefault(name, []).append(dict(data))
        elif not outlet.targets:
            self.unconnected += 1

    def node_for(self, node: Node) -> Node:
        """Return this job's own twin of a node with `scope="job"`. Lock."""
        twin = self.own.get(node)
        if twin is None:
            twin = self.own[node] = node.for_job()
        return twin

    # -- the end of an activation (lock)

    def quiet(self) -> bool:
        """Nothing is queued, running or waiting: call the next gather slot, or end. True if the job ended. Lock."""
        if self.ended or self.open:
            return False
        if self.arrivals and not self.stopped:
            self._gather()
            return False
        self.ended = True
        self.hub.runs.discard(self)
        return True

    def _gather(self) -> None:
        for inlet in self.hub.gather_order:
            node = self.own.get(inlet.node, inlet.node)
            mine = node.inlets[inlet.name]
            if mine in self.arrivals:
                self._queue(mine, {GATHERED: self.arrivals.pop(mine)}, 0, perf_counter())
                return

    def settle(self, item: Item, outcome: int, delay: float) -> None:
        """Count an activation that did not simply complete, and give its permit back if it is over. Lock."""
        node = item[0].node
        if outcome == RETRIED and not self.stopped:
            if not self._retry(item, delay):
                node.queue.release(node)
            return
        self.attempts.pop(item[3], None)
        self.merged_by.discard(item[3])
        self.open -= 1
        if outcome == SKIPPED:
            self.skipped += 1
        else:
            self.failed += 1
        node.queue.release(node)

    def _retry(self, item: Item, delay: float) -> bool:
        """Try again after a delay in seconds; True if the permit is kept meanwhile. Lock."""
        number, node = item[3], item[0].node
        self.retried += 1
        self.attempts[number] = self.attempts.get(number, 1) + 1
        keeps = node.limit == 1  # order holds behind a routine with state
        timer = self.hub.timers.add(delay, lambda: self._try_again(number))
        self.retrying[number] = (timer, item, keeps)
        return keeps

    def _try_again(self, number: int) -> None:
        _, item, keeps = self.retrying.pop(number)
        queue = item[0].node.queue
        (queue.first if keeps else queue.ready).append(item)
        queue.call()

    def set_aside(self, item: Item, permit: bool) -> None:
        """Keep an activation of a paused job that a worker came upon. Lock."""
        if permit and item[3] in self.attempts:
            self.parked_retries.append(item)
            return
        self.parked.append(item)
        if permit:
            item[0].node.queue.release(item[0].node)

    def note_failure(self, failure: Failure, state: str | None) -> None:
        """Record a failure with its decision. Lock."""
        self.failures.append(failure)
        if state is not None and GRAVITY[state] > GRAVITY.get(self.decided.get(failure.routine_id, ""), 0):
            self.decided[failure.routine_id] = state

    # -- stop, pause (lock)

    def stop(self, status: str) -> None:
        """Discard everything that has not started, and count it; what runs ends. Lock."""
        if self.stopped or self.ended:
            return
        self.stopped, self.halted, self.final = True, False, status
        gone = self.hub.drop(self) + self.parked + self.parked_retries
        for item in self.parked_retries:
            item[0].node.queue.release(item[0].node)
        for timer, item, keeps in self.retrying.values():
            timer.cancel()
            gone.append(item)
            if keeps:
                item[0].node.queue.release(item[0].node)
        self.hub.timers.wake()
        for items in (self.retrying, self.parked, self.parked_retries, self.arrivals):
            items.clear()
        self.discarded += len(gone)
        self.open -= len(gone)
        for queue in self.hub.queues:
            queue.call()

    def lost(self, queue: WorkQueue, error: BaseException) -> None:
        """The executor of a queue broke: what this job has there fails. Lock."""
        mine = [item for item in (*queue.first, *queue.ready) if item[2] is self]
        if not mine:
            return
        inlet, payload, _, number, _, _ = mine[0]
        failure = self.failure(inlet, payload, number, error)
        failure.decision = ErrorStrategy.STOP
        self.note_failure(failure, "failed")
        self.stop("failed")
        self.quiet()

    # -- without the lock

    def drive(self) -> None:
        """Wait in the thread that called `execute`, which does the work, until the job has ended or is paused."""
        with self.hub.lock:
            if self.paused:
                return
            self.at_rest = rest = Completion()
        self.done.add_callback(rest.set)
        self.hub.wait([self], None, rest)
        self.at_rest = None

    def failure(self, inlet: Inlet, payload: Payload, number: int, error: BaseException, emitted: int = 0) -> Failure:
        """Return the record of an exception, not decided yet."""
        return Failure(
            job_id=self.job_id,
            routine_id=inlet.node.routine_id,
            slot=inlet.name,
            attempt=self.attempts.get(number, 1),
            exception=error,
            traceback="".join(traceback.format_exception(error)),
            payload_keys=tuple(dict.fromkeys(key for each in payload.get(GATHERED, (payload,)) for key in each)),
            policy=inlet.node.policy,
            emitted=emitted,
        )

    def finish(self) -> None:
        """Tell those who wait that the job has ended, if it has. Not under the lock, and once."""
        with self.hub.lock:
            if not self.ended or self.finished:
                return
            self.finished = True
            for node in self.hub.raised:
                node.mark = 0
            self.hub.raised.clear()
            idle = None if self.hub.runs else self.hub.when_idle
        self.merged.clear()
        self.done.set()
        if idle is not None:
            idle()

    # -- what the JobState shows

    def status(self) -> str:
        if self.done.is_set():
            return self.final
        return "paused" if self.paused else "running"

    def errors(self) -> list[Failure]:
        with self.hub.lock:
            return list(self.failures)

    def outputs(self) -> dict[str, list[Payload]]:
        with self.hub.lock:
            return {name: list(payloads) for name, payloads in self.collected.items()}

    def ledger(self) -> Ledger:
        with self.hub.lock:
            return Ledger(
                posted=self.posted,
                completed=self.posted - self.open - self.failed - self.skipped - self.discarded,
                failed=self.failed,
                skipped=self.skipped,
                discarded=self.discarded,
                pending=self.open,
                retried=self.retried,
                emitted=self.emitted,
                unconnected=self.unconnected,
                gathered=self.gathered,
            )

    def routines(self) -> Mapping[str, Routine]:
        with self.hub.lock:
            own = {node.routine_id: twin.routine for node, twin in self.own.items()}
            return {name: own.get(name, node.routine) for name, node in self.hub.nodes.items()}

    def routine_states(self) -> dict[str, str]:
        with self.hub.lock:
            states = {inlet.node.routine_id: "completed" for inlet, total in self.totals.items() if total.completed}
            return {**states, **self.decided}

    def history_of(self, routine_id: str | None) -> list[ActivationRecord]:
        inlets = self.hub.inlets
        with self.hub.lock:
            newest = list(self.notes)
        found = records(newest, lambda number: (inlets[number].node.routine_id, inlets[number].name))
        return [record for record in found if routine_id in (None, record.routine_id)]

    def late_emissions(self) -> int:
        return self.late

    def explain(self) -> str:
        from routilux_core._explain import explain

        return explain(self)

    def wait(self, timeout: float | None) -> bool:
        check_outside(self.hub, "JobState.wait")
        return self.hub.wait([self], timeout)

    def pause(self) -> None:
        with self.hub.lock:
            if self.stopped or self.ended:
                return
            self.paused = self.halted = True
            at_rest = self.at_rest
        if at_rest is not None:
            at_rest.set()

    def resume(self) -> None:
        with self.hub.lock:
            if self.paused:
                self.paused = self.halted = False
                self._unpark()
        self.hub.answer()

    def _unpark(self) -> None:
        """Put what was set aside back before everything else of this job, in the order posted. Lock."""
        for item in self.parked_retries:
            item[0].node.queue.first.append(item)
        self.parked_retries.clear()
        if self.parked:
            back = sorted(self.parked + self.hub.drop(self), key=lambda item: item[3])
            self.parked.clear()
            for item in reversed(back):
                item[0].node.queue.ready.appendleft(item)
        for queue in self.hub.queues:
            queue.call()

    def cancel(self, kill: bool = False) -> None:
        with self.hub.lock:
            self.paused = False
            self.stop("cancelled")
            self.quiet()
        for queue in self.hub.queues if kill else ():
            queue.kill(self)
        self.finish()
        self.hub.answer()
