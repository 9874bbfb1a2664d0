"""Wrong dispatchers, as changes to the text of the right one: where the engine changes, this is what has to follow.

A change replaces lines of one function. `planted(...)` in the new ones counts how often the mutant did what the right
dispatcher does not, and is true; with `switch` another thread may run at that point. `stress.hunt` makes the changes
and looks for what they break.
"""

from __future__ import annotations

from typing import Any

from attrs import frozen

from routilux_core._engine import ledger, mailbox
from routilux_core._engine import run as run_module
from routilux_core._local import invocation
from routilux_core._local import worker as worker_module


@frozen
class Change:
    """Lines of a method that stand there once, and what takes their place; both without their indentation there."""

    owner: Any
    method: str
    right: str
    wrong: str


# "The second look left out": a worker sees in one step that nothing is left, and counts itself out in another, without
# looking again. What is posted in between finds all workers counted in, and calls nobody.
LEAVES_IN_TWO_STEPS = (
    Change(
        worker_module.Worker,
        "_step",
        """
                if following is None:
                    self._sign_out()
                else:
                    self.join(following)
        finally:
            engine.release()
        """,
        """
                if following is not None:
                    self.join(following)
        finally:
            engine.release()
        if following is None:
            with engine.lock:
                planted("left without a second look")
                self.scheduler.hands.discard(self)
                if not self.depth:
                    self.scheduler.crew.active -= 1
        """,
    ),
)


def noted_behind_its_count(seconds: float) -> tuple[Change, ...]:
    """Count activations, and leave it to another thread to note their records."""
    late = f"""
        planted("noted behind its count")

        def note() -> None:
            with self.engine.lock:
                self.history.add(worker, records)

        __import__("threading").Timer({seconds}, note).start()
    """
    return (Change(ledger.LedgerCounts, "add", "self.history.add(worker, records)", late),)


# "An activation counted before its record": by a moment, and by a little longer.
COUNTS_JUST_BEFORE_ITS_RECORD = noted_behind_its_count(0.0)
COUNTS_BEFORE_ITS_RECORD = noted_behind_its_count(0.001)

# A job ends though a worker has counted something for itself of which the job does not know.
ENDS_WHILE_IT_IS_HELD = (
    Change(
        run_module.Run,
        "end_if_idle",
        "elif ledger.members or ledger.over != ledger.last:",
        "elif (ledger.members and not planted('held')) or ledger.over != ledger.last:",
    ),
)

# "A mailbox queued twice": who hands the permit on to the next in line gives it back as well.
QUEUES_A_MAILBOX_TWICE = (
    Change(
        mailbox.Mailbox,
        "release",
        """
            first.append(self.waiting.popleft())
        """,
        """
            first.append(self.waiting.popleft())
            planted("handed on and given back")
            self.free += 1
        """,
    ),
)

# The same with books that balance in the end: a permit more than there are is lent, and given back.
LENDS_A_PERMIT_TOO_MANY = (
    Change(
        mailbox.Mailbox,
        "acquire",
        """
        if not self.free:
        """,
        """
        if self.free < 0 or (not self.free and not planted("lent to who asked")):
        """,
    ),
    Change(
        mailbox.Mailbox,
        "admit",
        """
        while self.free and self.waiting:
        """,
        """
        while self.waiting and (self.free > 0 or (not self.free and planted("lent to who waits"))):
        """,
    ),
)

# The second look of a mailbox left out: what was posted without the lock, by somebody who saw no permit, stays there.
LOOKS_ONCE = (
    Change(
        mailbox.Mailbox,
        "release",
        """
            self.free += 1
            if self.waiting:  # posted since, without the lock, by somebody who may have seen no permit
                self.admit(first)
        """,
        """
            planted("given back without a second look", switch=True)
            self.free += 1
        """,
    ),
)

# What a worker took to do next, and has not done, comes back behind what was posted since.
COMES_BACK_LAST = (
    Change(
        worker_module.Worker,
        "_put_back",
        """
            claimed.node.mailbox.put_back(claimed)
        """,
        """
            if claimed and claimed.node.mailbox.waiting:
                planted("put back last")
            claimed.node.mailbox.waiting.extend(claimed)
        """,
    ),
)

# An activation counts as finished when its handler has returned, before what was held back until then is posted.
COUNTS_BEFORE_ITS_EMISSIONS = (
    Change(
        invocation,
        "succeed",
        """
        held, state.held = state.held, None
        for outlet, data, _ in held:
        """,
        """
        held, state.held = state.held, None
        with worker.engine.lock:
            planted("counted early")
            worker.flush_records()
            worker.flush_posted()
            run.ledger.over += 1
            run.ledger.members -= 1
            ended = run.end_if_idle()
        if ended:
            from routilux_core._engine.ending import announce_end

            announce_end(run)
        with worker.engine.lock:
            run.ledger.over -= 1  # the loop counts it for good
            run.ledger.members += 1
        for outlet, data, _ in held:
        """,
    ),
)

# The newest in line for a routine with state gets the permit, not the one that has waited longest.
SERVES_THE_LAST_FIRST = (
    Change(
        mailbox.Mailbox,
        "release",
        """
            first.append(self.waiting.popleft())
        """,
        """
            planted("handed on")
            first.append(self.waiting.pop())
        """,
    ),
)

MUTANTS: dict[str, tuple[Change, ...]] = {
    "leaves_in_two_steps": LEAVES_IN_TWO_STEPS,
    "counts_before_its_record": COUNTS_BEFORE_ITS_RECORD,
    "counts_just_before_its_record": COUNTS_JUST_BEFORE_ITS_RECORD,
    "ends_while_it_is_held": ENDS_WHILE_IT_IS_HELD,
    "queues_a_mailbox_twice": QUEUES_A_MAILBOX_TWICE,
    "lends_a_permit_too_many": LENDS_A_PERMIT_TOO_MANY,
    "counts_before_its_emissions": COUNTS_BEFORE_ITS_EMISSIONS,
    "serves_the_last_first": SERVES_THE_LAST_FIRST,
    "looks_once": LOOKS_ONCE,
    "comes_back_last": COMES_BACK_LAST,
}
