"""One job's run: posting, the ledger, completion, gathering, retries, stop, pause, and what its JobState shows."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sized
from contextvars import Context
from time import perf_counter
from typing import TYPE_CHECKING, Any

from routilux_core._begun import wait_until_begun
from routilux_core._binding import Payload
from routilux_core._completion import Completion
from routilux_core._context import check_outside
from routilux_core._history import COMPLETED, DISCARDED, FAILED, RETRIED, SKIPPED, History, Stretch, records
from routilux_core._measures import JobSource
from routilux_core._plan import Inlet, Item, Node, Outlet, rename
from routilux_core.error_handling import ErrorStrategy, Failure

if TYPE_CHECKING:
    from routilux_core._dispatch import Dispatcher
    from routilux_core._job_records import ActivationRecord, Ledger
    from routilux_core._listeners import Listeners
    from routilux_core._plugins import PluginSet
    from routilux_core._timers import Timer
    from routilux_core._work_queue import WorkQueue
    from routilux_core.job import JobState
    from routilux_core.routine import Routine
    from routilux_core.tracking import Source

GATHERED = "gathered payloads"  # the key under which a gather slot's arrivals travel to its one call
GRAVITY = {"skipped": 1, "error_continued": 2, "failed": 3}


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
        "ended",
        "ended_at",
        "failed",
        "failures",
        "final",
        "finished",
        "flow_id",
        "gathered",
        "halted",
        "history",
        "holders",
        "hub",
        "job_id",
        "last",
        "late",
        "listeners",
        "merged",
        "merged_by",
        "note_to",
        "numbers",
        "over",
        "own",
        "parked",
        "parked_retries",
        "paused",
        "placed",
        "plain",
        "plugins",
        "quick",
        "retried",
        "retrying",
        "sent",
        "skipped",
        "stopped",
        "swept",
        "timed",
        "unconnected",
        "wary",
    )

    def __init__(self, hub: Dispatcher, job_id: str, flow_id: str, history_size: int, context: Context | None) -> None:
        self.hub = hub
        self.job_id = job_id
        self.context = context
        self.plain = context is None  # whether calling a handler is no more than that: the loop looks at nothing else
        self.wary = False  # a plugin let a plain call be tried again: each call may be another attempt
        self.quick = True  # whether an emission needs no further thought
        self.numbers = itertools.count(1)  # of activations
        # Workers count for themselves what they post and complete, and add it here now and then. So the job can't have
        # ended while one of them, a holder, has anything of it in hand.
        self.holders = 0
        self.last = 0  # how many activations were posted
        self.over = 0  # how many of them are over, however they ended
        self.failed = self.skipped = self.discarded = self.retried = self.late = 0
        # The hot path counts neither: it sends one emission for each activation that it posts.
        self.placed = self.sent = 0  # activations posted, and emissions sent, by the methods here
        self.unconnected = self.gathered = 0
        self.stopped = self.paused = self.halted = self.ended = self.finished = False
        self.final = "completed"
        self.done = Completion()
        self.at_rest: Completion | None = None  # while a caller works on this job: set when it ends or is paused
        self.history = History(history_size, len(hub.inlets))
        self.timed = self.history.timed
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
        self.swept: set[int] = set()  # counted as discarded, but still in the lane of a worker that works alone
        self.own: dict[Node, Node] = {}
        self.began = perf_counter()
        self.ended_at = 0.0
        self.flow_id = flow_id
        self.plugins: PluginSet | None = None
        self.listeners: Listeners | None = None
        self.note_to: Callable[[Stretch], None] | None = None

    def listen(self, plugins: PluginSet | None, job: JobState) -> None:
        """Work out who listens to this job; done once, before anything is posted."""
        self.plugins = plugins
        if plugins is not None and plugins.listening:
            from routilux_core._listeners import Listeners

            self.listeners = listeners = Listeners(plugins, job, self)
            if listeners.counts:
                self.timed = True
                self.history.time(True)
                self.note_to = listeners.note
            self.halted = listeners.starts  # nothing runs before they have been told
            self._look_again()

    def told_in_detail(self) -> Listeners | None:
        """Return the listeners if any of them is told of each call, or of each emission."""
        return self.listeners if self.listeners is not None and self.listeners.details else None

    def tell_started(self) -> None:
        """Tell that the job begins, and let its entry run. Not under the lock."""
        if self.listeners is not None and self.listeners.starts:
            self.listeners.job_started()
            with self.hub.lock:
                if not (self.paused or self.stopped):
                    self.halted = False
                    self._unpark()

    def _look_again(self) -> None:
        """Work out `quick` and `plain`. Lock, or before anything is posted."""
        self.quick = not self.stopped and (self.listeners is None or not self.listeners.details)
        self.plain = self.quick and not self.halted and not self.wary and self.context is None

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
        self.last += 1
        self.placed += 1
        if self.stopped:
            self.over += 1
            self.discarded += 1
            return
        queue.inbox_of(inlet.node).append((inlet, payload, self, next(self.numbers), cause, now))
        if queue.active < queue.workers and not queue.recruiting:
            queue.call()

    def discard(self, items: Sized) -> None:
        """Count what was posted after the job was stopped. Lock."""
        self.over += len(items)
        self.discarded += len(items)

    def refuse(self) -> None:
        """Count an emission of a stopped job, which is not delivered. Lock."""
        self.last += 1
        self.over += 1
        self.discarded += 1

    def send(self, outlet: Outlet, data: Payload, cause: int, now: float) -> None:
        """Post one emission to everything that it is connected to. Lock."""
        self.sent += 1
        if outlet.plain and not self.stopped:
            self._send_plainly(outlet, data, cause, now)
            return
        for inlet, mapping in outlet.targets:
            self.post(inlet, data if mapping is None else rename(data, mapping), cause, now)
        if outlet.outputs and not self.stopped:
            for name in outlet.outputs:
                self.collected.setdefault(name, []).append(dict(data))
        elif not outlet.targets:
            self.unconnected += 1

    def _send_plainly(self, outlet: Outlet, data: Payload, cause: int, now: float) -> None:
        # `post` for targets that need no further thought: a fan of a thousand holds the lock for less time.
        numbers = self.numbers
        self.last += len(outlet.targets)
        self.placed += len(outlet.targets)
        for inlet, _ in outlet.targets:
            node = inlet.node
            queue = node.queue
            lane = queue.lane  # as `inbox_of` has it, without a call
            inbox = queue.ready if lane is None or (node.limited and not queue.solo) else lane
            inbox.append((inlet, data, self, next(numbers), cause, now))
        for queue in self.hub.queues:
            queue.call()

    def send_all(self, outlet: Outlet, payloads: list[Payload], causes: Iterable[int], now: float) -> None:
        """Post emissions of one event, each with the activation that caused it. Nobody else has the payloads. Lock."""
        lone = outlet.targets[0][0] if outlet.plain and len(outlet.targets) == 1 else None
        if self.stopped or (lone is None and (outlet.targets or len(outlet.outputs) > 1)):
            for data, cause in zip(payloads, causes, strict=True):
                self.send(outlet, data, cause, now)
            return
        count = len(payloads)
        self.sent += count
        for name in outlet.outputs:
            self.collected.setdefault(name, []).extend(payloads)
        if lone is not None:
            queue = lone.node.queue
            inbox, numbers = queue.inbox_of(lone.node), self.numbers
            inbox.extend(
                zip(itertools.repeat(lone), payloads, itertools.repeat(self), numbers, causes, itertools.repeat(now))
            )  # payloads end first
            self.last, self.placed = self.last + count, self.placed + count
            queue.call()
        elif not outlet.outputs:
            self.unconnected += count

    def node_for(self, node: Node) -> Node:
        """Return this job's own twin of a node with `scope="job"`. Lock."""
        twin = self.own.get(node)
        if twin is None:
            twin = self.own[node] = node.for_job()
        return twin

    # -- the end of an activation (lock)

    def quiet(self) -> bool:
        """Nothing is queued, running or waiting: call the next gather slot, or end. True if the job ended. Lock."""
        if self.ended or self.holders or self.over != self.last:
            return False
        if self.arrivals and not self.stopped:
            self._gather()
            return False
        self.ended = True
        self.ended_at = perf_counter()
        return True

    def _gather(self) -> None:
        for inlet in self.hub.gather_order:
            node = self.own.get(inlet.node, inlet.node)
            mine = node.inlets[inlet.name]
            if mine in self.arrivals:
                self._queue(mine, {GATHERED: self.arrivals.pop(mine)}, 0, perf_counter())
                return

    def settle(self, item: Item, outcome: int, delay: float, permit: bool = True) -> None:
        """Count an activation that did not simply complete, and give its permit back if it is over. Lock.

        Without `permit` a call that is late still has it.
        """
        node = item[0].node
        if outcome == RETRIED and not self.stopped:
            if not self._retry(item, delay, permit) and permit:
                node.queue.release(node)
            return
        if (
            outcome == RETRIED
        ):  # the job was stopped since that was decided: the retry is discarded, as waiting ones are
            self.retried += 1
            outcome = DISCARDED
        self.attempts.pop(item[3], None)
        self.merged_by.discard(item[3])
        self.over += 1
        if outcome == SKIPPED:
            self.skipped += 1
        elif outcome == DISCARDED:
            self.discarded += 1
        elif outcome == FAILED:
            self.failed += 1
        if permit:
            node.queue.release(node)

    def note(self, item: Item, outcome: int, worker: int, started: float, ended: float) -> None:
        """Note an attempt, however it ended. Lock."""
        inlet, _, _, number, cause, posted = item
        attempt = self.attempts.get(number, 1)
        note = (number, cause, inlet.number, attempt, outcome, worker, posted, started, ended)
        self.history.note(note)
        if self.note_to is not None:
            self.note_to(Stretch.of(note))

    def add(self, worker: int, notes: list[Any]) -> None:
        """Count completed activations of a worker, and note them. Lock."""
        self.over += len(notes) // self.history.width
        if self.note_to is not None:
            self.note_to(Stretch(worker, notes))
        self.history.add(worker, notes)

    def is_listened_to(self) -> bool:
        """Return whether a listener waits for notes, and has not asked for them in time. Lock."""
        return self.note_to is not None and self.listeners is not None and not self.listeners.armed

    def collect(self) -> None:
        """Add what workers have counted for themselves so far. Lock.

        What was completed first, what was posted second: so no activation is counted as over that is not as posted.
        """
        workers = [worker for worker in self.hub.hands() if worker.mine is self]
        for worker in workers:
            worker.show_completed()
        for worker in workers:
            worker.tell_posted()

    def complete(
        self,
        items: list[Item],
        worker: int,
        started: list[float],
        ended: list[float],
    ) -> None:
        """Note and count activations of one slot that have completed; their permits are not given back. Lock."""
        if self.merged_by:
            self.merged_by.difference_update(item[3] for item in items)
        if self.attempts or not self.timed:
            for item, began, end in zip(items, started, ended, strict=True):
                self.note(item, COMPLETED, worker, began, end)
                self.attempts.pop(item[3], None)
            self.over += len(items)
            return
        numbers, causes, posted = ([item[column] for item in items] for column in (3, 4, 5))
        rows = zip(numbers, causes, itertools.repeat(items[0][0].number), posted, started, ended, strict=False)
        self.add(worker, list(itertools.chain.from_iterable(rows)))

    def _retry(self, item: Item, delay: float, permit: bool) -> bool:
        """Try again after a delay in seconds; True if the permit is kept meanwhile. Lock."""
        number, node = item[3], item[0].node
        self.retried += 1
        self.attempts[number] = self.attempts.get(number, 1) + 1
        if item[0].plain and not self.wary:
            self.wary = True
            self._look_again()
        keeps = node.limit == 1 and permit  # order holds behind a routine with state
        timer = self.hub.timers.add(delay, lambda: self._try_again(number))
        self.retrying[number] = (timer, item, keeps)
        return keeps

    def _try_again(self, number: int) -> None:
        _, item, keeps = self.retrying.pop(number)
        node = item[0].node
        queue = node.queue
        if keeps:
            queue.first.append(item)
        elif node.limit != 1:
            queue.ready.append(item)
        elif node.free:
            node.free -= 1
            queue.first.append(item)
        else:  # the call that was late goes on: next after it
            node.waiting.appendleft(item)
        queue.call()

    def keep_for_retry(self, item: Item) -> bool:
        """Leave the permit of a late call to its own retry, if that waits and order has to hold. Lock."""
        timer, _, keeps = self.retrying.get(item[3], (None, item, False))
        if timer is None or keeps or item[0].node.limit != 1:
            return False
        self.retrying[item[3]] = (timer, item, True)
        return True

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

    @property
    def emitted(self) -> int:
        """How many emissions were sent. Lock."""
        return self.last - self.placed + self.sent

    @property
    def pending(self) -> int:
        """How many activations are queued, running or waiting. Lock."""
        return self.last - self.over

    def stop(self, status: str) -> None:
        """Discard everything that has not started, and count it; what runs ends. Lock."""
        if self.stopped or self.ended:
            return
        self.stopped, self.halted, self.final = True, False, status
        self._look_again()  # a worker that is about to call a handler looks twice
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
        self.over += len(gone)
        for queue in self.hub.queues:
            queue.call()

    def lost(self, queue: WorkQueue, error: BaseException) -> None:
        """The executor of a queue broke: what this job has there fails. Lock."""
        mine = [item for item in queue.queued() if item[2] is self]
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
        import traceback

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
            self.hub.runs.discard(self)  # not before: who finds no jobs has to find them finished
            self.history.trim()
            self.hub.measures.end(self)
            for node in self.hub.raised:
                node.mark = 0
            self.hub.raised.clear()
            idle = None if self.hub.runs else self.hub.when_idle
            if not self.hub.runs:
                self.hub.timers.wake()  # what is left there was cancelled: its thread may end
        self.merged.clear()
        if self.listeners is not None:
            self.listeners.job_finished()
            self.listeners = None
        self.done.set()
        if idle is not None:
            idle()

    # -- what the JobState shows

    def write_off(self) -> None:
        """End a stopped job of which nothing is in hand, though an interrupt between two steps spoiled its books."""
        with self.hub.lock:
            if not self.stopped or self.ended:
                return
            self.discarded += self.last - self.over
            self.over, self.holders = self.last, 0
            self.quiet()
            if not self.hub.runs - {self}:
                for node in self.hub.all_nodes():
                    node.waiting.clear()
                    node.free = node.limit
        self.finish()

    def status(self) -> str:
        if self.finished:
            return self.final
        return "paused" if self.paused else "running"

    def errors(self) -> list[Failure]:
        with self.hub.lock:
            return list(self.failures)

    def outputs(self) -> dict[str, list[Payload]]:
        with self.hub.lock:
            return {name: list(payloads) for name, payloads in self.collected.items()}

    def ledger(self) -> Ledger:
        from routilux_core._job_records import Ledger

        with self.hub.lock:
            self.collect()
            return Ledger(
                posted=self.last,
                completed=self.over - self.failed - self.skipped - self.discarded,
                failed=self.failed,
                skipped=self.skipped,
                discarded=self.discarded,
                pending=self.pending,
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
            self.collect()
            inlets, totals = self.hub.inlets, self.history.totals()
            states = {inlets[slot].node.routine_id: "completed" for slot, total in totals.items() if total.completed}
            return {**states, **self.decided}

    def history_of(self, routine_id: str | None) -> list[ActivationRecord]:
        inlets = self.hub.inlets
        with self.hub.lock:
            self.collect()
            newest = self.history.newest()
        found = records(newest, lambda number: (inlets[number].node.routine_id, inlets[number].name))
        return [record for record in found if routine_id in (None, record.routine_id)]

    def wall(self) -> float:
        """Return the seconds that the job has taken so far."""
        return (self.ended_at or perf_counter()) - self.began

    def source(self) -> Source:
        return JobSource(self)

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
            self._look_again()
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
        self._look_again()
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
            hands = self.hub.hands()
        for queue in self.hub.queues:
            queue.revoke(self)
            if kill:
                queue.kill(self)
        self.finish()
        self.hub.answer()
        if hands:
            wait_until_begun(hands, self)
