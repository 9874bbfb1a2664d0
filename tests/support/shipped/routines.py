"""Routines that worker processes import."""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from typing import Any

from routilux_core import Flow, Routine, event, field, per_worker, slot


class Source(Routine, stateless=True):
    item = event("n")

    def __call__(self, count: int) -> None:
        for n in range(count):
            self.emit("item", n=n)


class Repeats(Routine, stateless=True):
    """Emits the same list again and again."""

    item = event("seen")

    def __call__(self, count: int) -> None:
        seen = {"by": [0]}
        for _ in range(count):
            self.emit("item", seen=seen)


class AddsToIt(Routine, stateless=True):
    """Changes the list that it was given, which is its own."""

    length = event("length")

    @slot
    def seen(self, seen: dict[str, list[int]]) -> None:
        seen["by"].append(1)
        self.emit("length", length=len(seen["by"]))


class SlowSource(Routine, stateless=True):
    """Emits over some ten milliseconds."""

    item = event("n")

    def __call__(self, count: int) -> None:
        for n in range(count):
            self.emit("item", n=n)
            time.sleep(0.0005)


class Pause(Routine, stateless=True):
    """Takes its time."""

    seconds: float = 0.0

    @slot
    def n(self, n: int) -> None:
        time.sleep(self.seconds)


class Square(Routine, stateless=True):
    done = event("n")

    @slot
    def n(self, n: int) -> None:
        self.increment_stat("calls")
        self.emit("done", n=n * n)


class Sum(Routine):
    total: int = 0
    seen: list = field(factory=list)
    summed = event("total")

    @slot
    def n(self, n: int) -> None:
        self.total += n
        self.seen.append(n)
        self.increment_stat("calls")
        self.emit("summed", total=self.total)


class SumOfJob(Sum, scope="job"):
    """Each job has its own."""


class Appender(Routine):
    rows: list = field(factory=list)
    calls: int = 0

    @slot(merge_strategy="append")
    def n(self, n: list) -> None:
        self.calls += 1
        self.rows.append(list(n))


class Gatherer(Routine):
    rows: list = field(factory=list)
    calls: int = 0
    gathered = event("n")

    @slot(merge_strategy="gather")
    def n(self, n: list) -> None:
        self.calls += 1
        self.rows = sorted(n)
        self.emit("gathered", n=sum(n))


class GathererOfJob(Gatherer, scope="job"):
    """Each job has its own."""


class Newest(Routine):
    """Merges by a function, which runs at home."""

    seen: list = field(factory=list)

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.define_slot("n", merge_strategy=self.merge)

    def merge(self, old: dict, new: dict) -> dict:
        return {"n": old.get("n", 0) + new["n"]}

    def n(self, n: int) -> None:
        self.seen.append(n)


class TwoArguments(Exception):
    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"{name} and {number}")
        self.number = number


class WithLock(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class Stubborn(Exception):
    """Raises when it is unpickled as it says itself."""

    def __new__(cls, *args: Any) -> Stubborn:
        if not args:
            raise RuntimeError("made without arguments")
        return super().__new__(cls, *args)

    def __reduce__(self) -> Any:
        return type(self), ()


class Unsendable(Exception):
    """Its class can't be pickled: another one has its name, and it holds what can't be copied."""

    lock = threading.Lock()


_Hidden = Unsendable
Unsendable = type("Unsendable", (Exception,), {"__module__": __name__})  # type: ignore[misc]


ERRORS = {
    "plain": lambda: ValueError("no"),
    "two arguments": lambda: TwoArguments("a", 2),
    "lock": lambda: WithLock("held"),
    "argument": lambda: ValueError("with", threading.Lock()),
    "stubborn": lambda: Stubborn("a"),
    "exit": lambda: SystemExit(3),
    "interrupt": KeyboardInterrupt,
    "hidden": lambda: _Hidden("away"),
}


class Fails(Routine):
    """Has state; fails for some numbers, a number of times each."""

    times: dict = field(factory=dict)
    kind: str = "plain"
    calls: list = field(factory=list)
    passed = event("n")

    @slot
    def n(self, n: int) -> None:
        self.calls.append(n)
        self.emit("passed", n=n)
        if self.times.get(n, 0) > self.calls.count(n) - 1:
            self.last = n  # set before the exception
            raise ERRORS[self.kind]()


class FailsWithout(Routine, stateless=True):
    """Keeps nothing; fails for some numbers."""

    bad: frozenset = frozenset()
    kind: str = "plain"
    passed = event("n")

    @slot
    def n(self, n: int) -> None:
        self.emit("passed", n=n)
        if n in self.bad:
            raise ERRORS[self.kind]()


class Says(Routine):
    """Logs and warns."""

    @slot
    def n(self, n: int) -> None:
        logging.getLogger("shipped.says").info("number %d of %s", n, threading.current_thread().name)
        try:
            raise LookupError("caught")
        except LookupError:
            logging.getLogger("shipped.says").exception("it was caught: %s", object)
        warnings.warn(f"warned of {n}", UserWarning, stacklevel=1)


class Emits(Routine, stateless=True):
    """Emits what can't be sent, under the key `value.inner[1]`."""

    out = event("value")

    @slot
    def n(self, n: int) -> None:
        self.emit("out", value=n)
        self.emit("out", value=Holder(inner=[n, threading.Lock()]))


class Holder:
    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


class Client:
    """Says who made it, and notes in a file that it was closed."""

    def __init__(self) -> None:
        self.made_by = (os.getpid(), threading.get_ident())

    def close(self) -> None:
        path = os.environ.get("SHIPPED_CLOSED")
        if path:
            with open(path, "a") as file:
                print(*self.made_by, file=file)


class UsesClient(Routine, stateless=True):
    client = per_worker(Client)
    used = event("made_by")

    @slot
    def n(self) -> None:
        self.emit("used", made_by=self.client.made_by)


class KeepsLock(Routine):
    """Gets an attribute that can't come home, and others that can."""

    fine: int = 0

    @slot
    def n(self, n: int) -> None:
        self.fine = n
        self.lock = threading.Lock()


class Selfish(Routine):
    """Refers to itself, and has handlers that are no methods of it."""

    def __init__(self) -> None:
        super().__init__()
        self.me = self
        self.helper = Helper()
        self.define_slot("n", self.helper.take)
        self.define_slot("check", self.look)

    def look(self) -> None:
        assert self.me is self
        self.looked = True


class WithOwnState(Routine):
    """Leaves its lock at home, by `__getstate__`, and makes another where it arrives."""

    calls: int = 0

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.lock = threading.Lock()
        self.gone = True

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.lock = threading.Lock()

    @slot
    def n(self, n: int) -> None:
        with self.lock:
            self.calls += 1
        if hasattr(self, "gone"):
            del self.gone


class Counts(Routine):
    """Counts with everything that there is for it."""

    @slot
    def n(self, n: int) -> None:
        if n == 3:
            self.reset_stats()
        assert self.increment_stat("calls") == self.stats()["calls"]
        self.increment_stat("weight", 0.1)


class CountsWithout(Counts, stateless=True):
    """Keeps nothing, but counters."""


class Helper:
    def __init__(self) -> None:
        self.taken: list[int] = []

    def take(self, n: int) -> None:
        self.taken.append(n)


class Heavy(Routine):
    data: bytes = b""
    calls: int = 0

    @slot
    def n(self) -> None:
        self.calls += 1


FLOW = Flow("of a module")
FLOW.add_routine(Source(), "source")


class Executes(Routine):
    """Executes a flow of its module, and one of its own."""

    ran = event("count")

    @slot
    def n(self, own: bool) -> None:
        flow = Flow("of the handler") if own else FLOW
        if own:
            flow.add_routine(Source(), "source")
        with flow:
            job = flow.run("source", {"count": 3})
            self.emit("ran", count=job.ledger.emitted)


class Marker(Routine, stateless=True):
    """Writes a line to a file for each call."""

    path: str

    @slot
    def n(self, n: int) -> None:
        with open(self.path, "a") as file:
            print(n, file=file)


class Waits(Routine):
    """Waits for a file to come."""

    passed = event("n")

    @slot
    def n(self, n: int, path: str) -> None:
        self.emit("passed", n=n)
        while not os.path.exists(path) and not self.cancelled:
            os.stat(".")
        self.emit("passed", n=n + 1)


class Spin(Routine, stateless=True):
    """Some 20 microseconds of work."""

    done = event("n")

    @slot
    def n(self, n: int) -> None:
        x = 0
        for i in range(420):
            x += i * i
        self.emit("done", n=n)


class Carries(Routine):
    """Carries what it is given."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        vars(self).update(attributes)

    @slot
    def n(self, n: Any = 0) -> None:
        self.got = n


class Late(Routine, timeout=0.3):
    """Emits in time, and too late; then it raises, if it is told to."""

    out = event("n")

    @slot
    def n(self, n: int, raises: bool) -> None:
        self.emit("out", n=n)
        while not self.cancelled:  # also when the time of the call is over
            time.sleep(0.005)
        self.emit("out", n=-n)
        self.emit("out", n=-n)
        if raises:
            raise ValueError("late, too")


class LateStateless(Late, stateless=True, timeout=0.3):
    pass


class SaysWhich(Routine, stateless=True):
    """Emits which activation each call is; some fail at their first attempt."""

    said = event("n", "key")

    @slot
    def n(self, n: int) -> None:
        if n % 7 == 3 and self.activation.attempt == 1:
            raise ValueError(n)
        self.emit("said", n=n, key=self.activation.key)
