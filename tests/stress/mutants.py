"""Wrong dispatchers, made from the right one at run time, and the hunt for them.

Run as a program, in a process of its own: `hunt(name, first_seed, flows)` prints one line of JSON.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from routilux_core import _loop, _plan, _run
from routilux_core._context import CURRENT
from stress.harness import Difference, check_seed
from stress.watch import Hang

HANG = 4.0  # seconds: a mutant that hangs a flow is found by that

# How often a mutant did what the right dispatcher does not: a mutant that is never applied proves nothing.
hits = 0


def hit() -> None:
    global hits
    hits += 1


def leaves_in_two_steps() -> None:
    """A worker sees that its queue is empty in one step and counts itself out in another, without looking again.

    What is posted in between finds all workers counted in, and calls nobody.
    """
    work = _loop.Worker.work

    def work_then_leave(self: Any, limit: int) -> None:
        work(self, limit)
        if not self.depth:
            with self.hub.lock:
                hit()
                self.queue.active -= 1

    _loop.Worker._leave = lambda self: None  # type: ignore[method-assign]
    _loop.Worker.work = work_then_leave  # type: ignore[method-assign]


def counts_before_its_emissions() -> None:
    """An activation counts as finished when its handler returns, before what it emitted last is posted."""
    bind = _plan.bind

    def bind_and_count(*args: Any) -> Callable[[Any], Any]:
        call = bind(*args)

        @functools.wraps(call)
        def call_and_count(payload: Any) -> None:
            call(payload)
            worker: Any = CURRENT.get()
            run, lock = worker.run, worker.hub.lock
            with lock:
                hit()
                run.open -= 1
                ended = run.quiet()
            if ended:
                run.finish()
            with lock:
                run.open += 1  # the loop counts it for good

        return call_and_count

    _plan.bind = bind_and_count


def counts_before_its_record() -> None:
    """The newest record is noted only when the next one is, or behind the end of the job: a few bytecodes too late."""
    init, finish = _run.Run.__init__, _run.Run.finish

    class Late(deque[Any]):
        newest: Any = None

        def append(self, record: Any) -> None:
            if self.newest is not None:
                super().append(self.newest)
            self.newest = record

    def init_late(self: Any, *args: Any) -> None:
        init(self, *args)
        self.notes = Late(maxlen=self.notes.maxlen)

    def finish_then_note(self: Any) -> None:
        finish(self)
        with self.hub.lock:
            if self.ended and self.notes.newest is not None:
                hit()
                deque.append(self.notes, self.notes.newest)
                self.notes.newest = None

    _run.Run.__init__ = init_late  # type: ignore[method-assign]
    _run.Run.finish = finish_then_note  # type: ignore[method-assign]


def queues_a_mailbox_twice() -> None:
    """Who hands its permit on to the next in line gives it back as well: two may run where one is allowed."""

    class Doubling(deque[Any]):
        def popleft(self) -> Any:
            item = super().popleft()
            hit()
            item[0].node.free += 1
            return item

    _replace_waiting(Doubling)


def serves_the_last_first() -> None:
    """The newest in line for a routine with state gets the permit, not the one that has waited longest."""

    class Stack(deque[Any]):
        def popleft(self) -> Any:
            hit()
            return self.pop()

    _replace_waiting(Stack)


def _replace_waiting(kind: type[deque[Any]]) -> None:
    init, for_job = _plan.Node.__init__, _plan.Node.for_job

    def replaced_init(self: Any, *args: Any) -> None:
        init(self, *args)
        self.waiting = kind()

    def replaced_for_job(self: Any) -> Any:
        twin = for_job(self)
        twin.waiting = kind()
        return twin

    _plan.Node.__init__ = replaced_init  # type: ignore[method-assign]
    _plan.Node.for_job = replaced_for_job  # type: ignore[method-assign]


MUTANTS: dict[str, Callable[[], None]] = {
    mutant.__name__: mutant
    for mutant in (
        leaves_in_two_steps,
        counts_before_its_emissions,
        counts_before_its_record,
        queues_a_mailbox_twice,
        serves_the_last_first,
    )
}


def hunt(name: str, first_seed: int, flows: int) -> dict[str, Any]:
    """Run flows on a mutant until one differs; return after how many, and what showed it."""
    if name != "none":
        MUTANTS[name]()
    began = time.perf_counter()
    found = None
    tried = 0
    for tried in range(1, flows + 1):
        try:
            check_seed(first_seed + tried - 1, limit=HANG)
        except (Difference, Hang) as error:
            found = f"{type(error).__name__}: {error}".partition("\n")[0]
            break
    seconds = round(time.perf_counter() - began, 1)
    return {"mutant": name, "found_after": tried if found else None, "by": found, "hits": hits, "seconds": seconds}


def main() -> None:
    name, first_seed, flows = sys.argv[1:]
    print(json.dumps(hunt(name, int(first_seed), int(flows))), flush=True)
