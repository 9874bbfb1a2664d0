"""What a job keeps of its failures: the first that count, the newest of the others, and how many there were."""

from __future__ import annotations

from collections import deque
from heapq import merge

from routilux_core.error_handling import Errors, ErrorStrategy, Failure, LeftOut

MOST = 10_000  # failures kept that were decided STOP or CONTINUE; as many more of those that stopped the job
KINDS = 1000  # of failures, whose first is told with its traceback
COUNTS = (ErrorStrategy.STOP, ErrorStrategy.CONTINUE)


class Failures:
    """The failures of a job, in the order of the decisions. `note` needs the engine's lock, `kept` as well.

    The first failure is mostly the cause of those that follow, and attempts that are tried again may be very many: so
    neither makes room for the other.
    """

    __slots__ = ("_counted", "_first", "_kinds", "_newest", "_others")

    def __init__(self, ring: int) -> None:
        self._first: list[tuple[int, Failure]] = []  # each with its number
        self._newest: deque[tuple[int, Failure]] = deque(maxlen=ring)
        self._counted = self._others = 0
        self._kinds: set[tuple[str, str, type[BaseException], ErrorStrategy | None]] = set()

    def note(self, failure: Failure) -> None:
        """Keep a failure that has been decided about, if there is room for it; count it in any case."""
        numbered = (self._counted + self._others, failure)
        if failure.decision not in COUNTS:
            self._others += 1
            self._newest.append(numbered)
            return
        self._counted += 1
        most = 2 * MOST if failure.decision is ErrorStrategy.STOP else MOST
        if len(self._first) < most:
            self._first.append(numbered)

    def resume(self, failures: list[Failure], counted: int, others: int) -> None:
        """Keep failures from before, and know how many there were."""
        for failure in failures:
            self.note(failure)
        self._counted, self._others = counted, others

    def is_new(self, failure: Failure) -> bool:
        """Whether it is the first of its kind: of this type, at this slot, decided so. Of very many kinds few are."""
        kind = (failure.routine_id, failure.slot, type(failure.exception), failure.decision)
        if kind in self._kinds or len(self._kinds) >= KINDS:
            return False
        self._kinds.add(kind)
        return True

    def left_out(self) -> LeftOut:
        """Return how much is not kept. Any thread; without the lock, about."""
        return LeftOut(self._counted - len(self._first), self._others - len(self._newest))

    def kept(self) -> Errors:
        """Return what is kept, and how much is not."""
        kept = merge(self._first, self._newest, key=lambda numbered: numbered[0])
        return Errors((failure for _, failure in kept), self.left_out())
