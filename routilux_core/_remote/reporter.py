"""What a worker tells of a task: emissions and ends of activations, in order, at once or with the reply."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from time import perf_counter
from typing import Any

from routilux_core._remote.logs import Relay
from routilux_core._remote.pickling import Pickled, size_of
from routilux_core._remote.wire import Data, Failed, Label, Last, Message, Report, Stats, Told

DELAY = 0.001  # seconds that an emission waits for company while its handler runs
PATIENCE = 0.03  # seconds that it waits in a task of many activations: most of these tasks have ended by then
FIRST_CHUNK, LARGEST_CHUNK = 64, 2048  # emissions of one call that leave without waiting: others begin while it goes on
HEAVY = 1 << 20  # bytes of large buffers that leave without waiting
IDLE = 5  # looks, each after `PATIENCE`, that find nothing: then the flusher's thread ends


class Reporter:
    """Gathers what a task has to tell. With `send`, what is emitted leaves in chunks while the task runs.

    If a part of an activation's emissions has been sent, its end is sent before the next one begins: so when the
    worker dies, at most one activation is half told.

    The thread of the task appends to the columns without a lock, to `names` and `ends` last, and nobody else changes
    them. The flusher's thread reads, and notes how much of them it has told. Where each side writes one thing and then
    reads another, one of the two is a list, whose own lock keeps that order, under free-threaded Python as well.
    """

    def __init__(
        self,
        label: Label,
        send: Callable[[Any], None] | None,
        flusher: Flusher,
        relay: Relay | None,
        alone: bool,
        in_pieces: bool = False,
    ) -> None:
        self._label = label
        self._in_pieces = in_pieces  # what is large in a message is to be beside it
        self._weight = 0  # bytes of what is large in the columns
        self.broken: BaseException | None = None
        self.names: list[str] = []  # of the events, one for each emission
        self.data: list[Data] = []
        self.ends: list[float] = []
        self.upto: list[int] = []
        self.stats: list[Stats] = []
        self.failures: list[Failed] = []  # noted before the end, as counters are
        self.started = perf_counter()
        self.mark = 0 if send is not None else sys.maxsize  # with more emissions than that, it is time to `look`
        self.half_told = False  # of the activation that runs, some emissions have been sent
        self._send = send
        self._flusher = flusher
        self._relay = relay
        self._delay = DELAY if alone else PATIENCE
        self._lock = threading.Lock()
        self._chunk = FIRST_CHUNK if alone else LARGEST_CHUNK
        self._armed = False  # the flusher will come
        self._sent = self._ended = 0  # emissions and ends in the columns that have been told
        self._sent_before = self._ended_before = 0  # and that are no longer in them

    # -- the thread of the task

    @property
    def ended(self) -> int:
        """How many activations of the task have ended."""
        return self._ended_before + len(self.ends)

    def weigh(self, data: Pickled) -> None:
        """Hear of an emission with large buffers, which comes next: with enough of them, what there is leaves at once.

        They lie where the handler has made them, and are not copied before.
        """
        self._weight += size_of(data)
        if self._weight >= HEAVY and self._send is not None:
            self.mark = 0

    def look(self) -> None:
        """Send a chunk if there is enough for one; else see to it that the flusher does so soon."""
        with self._lock:
            self._drop_told()
            if len(self.names) >= self._chunk or self._weight >= HEAVY:
                self._chunk = min(2 * self._chunk, LARGEST_CHUNK)
                self._tell()
                self._drop_told()
            elif not self._armed:
                self._armed = True
                self._flusher.arm(perf_counter() + self._delay, self)
            self.mark = self._chunk - 1 if self._armed else 0

    def end_half_told(self) -> None:
        """Send the end of an activation of which some emissions have been sent, if it was not sent with them."""
        with self._lock:
            if self.half_told:
                self._tell()
            self._begin_next()

    def tell_ends(self) -> None:
        """Send what has ended, though nothing was emitted. Between two activations."""
        with self._lock:
            if len(self.ends) > self._ended:
                self._tell()
            self._begin_next()

    def _begin_next(self) -> None:
        # The lock is held.
        self._drop_told()
        self.half_told = False
        if not self.ends:
            self.started = perf_counter()  # the sending took its time

    def leave(self) -> None:
        """Tell nothing any more, and be asked when the call that runs ends: this is a fork."""
        self._lock = threading.Lock()  # the flusher may have held the other
        self.mark, self._send = sys.maxsize, None
        self.half_told = True

    def reply(self, last: Last) -> Message:
        """Return the last message, with everything not told yet."""
        with self._lock:
            self.mark, self._send = sys.maxsize, None
            if self._armed:
                self._flusher.disarm(self)
            return self._message(last)

    def _drop_told(self) -> None:
        # The lock is held.
        sent, ended = self._sent, self._ended
        if sent or ended:
            del self.names[:sent], self.data[:sent], self.ends[:ended], self.upto[:ended]
            self.upto[:] = [count - sent for count in self.upto]
            self._sent_before += sent
            self._ended_before += ended
            self._sent = self._ended = 0
            self.stats[:] = [each for each in self.stats if each[0] >= self._ended_before]
            self.failures[:] = [each for each in self.failures if each[0] >= self._ended_before]

    # -- any thread, with the lock

    def flush(self) -> None:
        """Send what there is. The flusher's thread, without the lock."""
        with self._lock:
            self._armed = False
            if self._send is not None:
                self.mark = 0  # before it is looked what there is: whoever emits from now on asks for the flusher again
                if len(self.names) > self._sent:
                    self._tell()

    def _tell(self) -> None:
        # The lock is held while it is sent, so that chunks stay in order.
        if self.broken is None and self._send is not None:
            try:
                self._send(self._message(None))
            except BaseException as error:  # it is the pool's: no handler may see it
                self.broken = error

    def _message(self, last: Last | None) -> Message:
        logs = [] if self._relay is None else self._relay.taken()
        told = self._told()
        self._weight = 0
        report = Report(os.getpid(), perf_counter(), told, logs, last)
        return report.write_pieces(self._label) if self._in_pieces else report.write(self._label)

    def _told(self) -> Told:
        was_half_told, self.half_told = (
            self.half_told,
            True,
        )  # before it is looked what there is: who ends an activation meanwhile waits for the lock
        sent, ended, upto = self._sent, self._ended, self.upto
        emissions, ends = len(self.names), len(self.ends)
        while ends > ended and upto[ends - 1] > emissions:  # it has ended since the emissions were counted
            ends -= 1
        first = self._ended_before + ended
        told = Told(
            first,
            self._sent_before + sent,
            self.started,
            self.ends[ended:ends],
            [count - sent for count in upto[ended:ends]] if sent else upto[ended:ends],
            self.names[sent:emissions],
            self.data[sent:emissions],
            [each for each in self.stats if first <= each[0] < self._ended_before + ends],
            [each for each in self.failures if first <= each[0] < self._ended_before + ends],
        )
        if ends > ended:
            self.started, was_half_told, sent = self.ends[ends - 1], False, upto[ends - 1]
        self.half_told = was_half_told or emissions > sent
        self._sent, self._ended = emissions, ends
        return told


class Flusher:
    """One thread that sends what tellers have waited with for long enough; it exists only while there is something.

    While short tasks follow each other it wakes up seldom: each time it takes the interpreter from a handler.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: dict[Reporter, float] = {}  # when to call which
        self._wakes_at = 0.0
        self._thread: threading.Thread | None = None

    def arm(self, due: float, teller: Reporter) -> None:
        """Call `teller.flush` at a time of `perf_counter`, or a little later, unless `disarm` comes first."""
        with self._changed:
            self._due[teller] = due
            if self._thread is None:
                self._start()
            elif due < self._wakes_at:
                self._changed.notify()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="routilux-flusher", daemon=True)
        with contextlib.suppress(RuntimeError):  # the system gives no more threads: all of it is told with the replies
            thread.start()
            self._thread = thread

    def disarm(self, teller: Reporter) -> None:
        """Forget a teller that has told everything. The thread is left to find out when it wakes up."""
        with self._changed:
            self._due.pop(teller, None)

    def _run(self) -> None:
        idle = 0
        while True:
            with self._changed:
                if not self._due:
                    idle += 1
                    if idle > IDLE:
                        self._thread = None
                        return
                    self._wait(PATIENCE)
                    continue
                idle = 0
                teller = min(self._due, key=self._due.__getitem__)
                left = self._due[teller] - perf_counter()
                if left > 0:
                    self._wait(left)
                    continue
                del self._due[teller]
            teller.flush()

    def _wait(self, seconds: float) -> None:
        # The lock is held.
        self._wakes_at = perf_counter() + seconds
        self._changed.wait(seconds)
        self._wakes_at = 0.0  # it looks at everything now
