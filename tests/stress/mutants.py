"""Wrong dispatchers, made from the right one at run time, and the hunt for them.

Run as a program, in a process of its own, since a mutant stays and may hang: `python -m stress.mutants NAME FIRST_SEED
FLOWS` prints one line of JSON. A mutant whose place in the engine is gone raises `Outdated`; one that is planted where
the engine no longer passes has no `hits`, and proves nothing.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from routilux_core import _loop, _plan, _run
from routilux_core._context import CURRENT
from stress.harness import Difference, check_seed
from stress.watch import Hang

HANG = 4.0  # seconds: a mutant that hangs a flow is found by that

# How often a mutant did what the right dispatcher does not, by the place where it did.
hits: Counter[str] = Counter()


class Outdated(AssertionError):
    """The engine has changed, and a mutant has to be planted in another place."""


def plant(owner: Any, name: str, mutate: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace a function of the engine by what `mutate` makes of it; refuse where there is none of that name."""
    right = vars(owner).get(name)
    if not callable(right):
        raise Outdated(f"{owner.__name__}.{name} is gone: plant the mutant where the engine does the same now")
    wrong = mutate(right)
    if list(inspect.signature(wrong).parameters) != list(inspect.signature(right).parameters):
        raise Outdated(f"{owner.__name__}.{name} is called with other arguments now: {inspect.signature(right)}")
    setattr(owner, name, wrong)


def expect(*places: str) -> None:
    """Name the places that a mutant passes: `hunt` reports the one passed least."""
    hits.update(dict.fromkeys(places, 0))


def leaves_in_two_steps() -> None:
    """A worker sees that its queue is empty in one step and counts itself out in another, without looking again.

    What is posted in between finds all workers counted in, and calls nobody. (Where a protocol has a second look, this
    is that look left out.)
    """
    expect("left in the loop", "left behind it")

    def stay(right: Any) -> Any:
        def leave(self: Any) -> None:
            hits["left in the loop"] += 1

        return leave

    def leave_late(right: Any) -> Any:
        def work(self: Any, limit: int) -> None:
            right(self, limit)
            if not self.depth:
                with self.hub.lock:
                    hits["left behind it"] += 1
                    self.queue.active -= 1

        return work

    plant(_loop.Worker, "_leave", stay)
    plant(_loop.Worker, "work", leave_late)


def counts_before_its_emissions() -> None:
    """An activation counts as finished when its handler returns, before what it emitted last is posted."""
    expect("counted")

    def count(right: Any) -> Any:
        @functools.wraps(right)
        def bind(*args: Any) -> Callable[[Any], Any]:
            call = right(*args)

            @functools.wraps(call)
            def call_and_count(payload: Any) -> None:
                call(payload)
                worker: Any = CURRENT.get()
                run, lock = worker.run, worker.hub.lock
                with lock:
                    hits["counted"] += 1
                    run.over += 1
                    ended = run.quiet()
                if ended:
                    run.finish()
                with lock:
                    run.over -= 1  # the loop counts it for good

            return call_and_count

        return bind

    plant(_plan, "bind", count)


def counts_before_its_record() -> None:
    """The newest record is noted only when the next one is, or behind the end of the job: a few bytecodes too late."""
    expect("noted late")

    class Late(list[Any]):
        newest: Any = None

        def append(self, record: Any) -> None:
            if self.newest is not None:
                super().append(self.newest)
            self.newest = record

    def keep_late(right: Any) -> Any:
        @functools.wraps(right)
        def init(self: Any, *args: Any) -> None:
            right(self, *args)
            self.notes = self.history.notes = Late()

        return init

    def note_late(right: Any) -> Any:
        def finish(self: Any) -> None:
            right(self)
            with self.hub.lock:
                if self.ended and self.notes.newest is not None:
                    hits["noted late"] += 1
                    list.append(self.notes, self.notes.newest)
                    self.notes.newest = None

        return finish

    plant(_run.Run, "__init__", keep_late)
    plant(_run.Run, "finish", note_late)


def queues_a_mailbox_twice() -> None:
    """Who hands its permit on to the next in line gives it back as well: two may run where one is allowed."""
    expect("handed on")

    class Doubling(deque[Any]):
        def popleft(self) -> Any:
            item = super().popleft()
            hits["handed on"] += 1
            item[0].node.free += 1
            return item

    wait_in(Doubling)


def serves_the_last_first() -> None:
    """The newest in line for a routine with state gets the permit, not the one that has waited longest."""
    expect("handed on")

    class Stack(deque[Any]):
        def popleft(self) -> Any:
            hits["handed on"] += 1
            return self.pop()

    wait_in(Stack)


def wait_in(kind: type[deque[Any]]) -> None:
    """Let the line in front of a routine be of another kind."""

    def replace(node: Any) -> None:
        if type(node.waiting) is not deque:
            raise Outdated(f"the line in front of a routine is a {type(node.waiting)} now, not a deque")
        node.waiting = kind()

    def with_line(right: Any) -> Any:
        @functools.wraps(right)
        def init(self: Any, *args: Any) -> None:
            right(self, *args)
            replace(self)

        return init

    def with_own_line(right: Any) -> Any:
        def for_job(self: Any) -> Any:
            twin = right(self)
            replace(twin)
            return twin

        return for_job

    plant(_plan.Node, "__init__", with_line)
    plant(_plan.Node, "for_job", with_own_line)


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
    return {
        "mutant": name,
        "found_after": tried if found else None,
        "tried": tried,
        "by": found,
        "hits": min(hits.values(), default=0),
        "seconds": seconds,
    }


def main() -> None:
    name, first_seed, flows = sys.argv[1:]
    print(json.dumps(hunt(name, int(first_seed), int(flows))), flush=True)
    os._exit(0)  # what a mutant has hung stays hung: wait for nothing of it


if __name__ == "__main__":
    main()
