"""What a job has collected, handed out while it runs: woken by each emission, never polled."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

from routilux_core._engine.run import Run
from routilux_core._routines.frame import check_outside
from routilux_core._routines.signature import Payload
from routilux_core._threads.completion import Completion
from routilux_core.errors import FlowStateError

Output = tuple[str, Payload]


class OutputStream:
    """The outputs of some names from the first on, each once; it ends with the job.

    Those of one name come in the order collected. It keeps no copy of what the job keeps: only how far it is.
    """

    def __init__(self, run: Run, names: tuple[str, ...]) -> None:
        self._run = run
        self._taken = dict.fromkeys(names, 0)
        self._found: deque[Output] = deque()

    def __iter__(self) -> OutputStream:
        return self

    def __next__(self) -> Output:
        while not self._look():
            self._run.engine.check_may_wait("JobState.stream", "write `async for`")
            with self._listed() as bell:
                self._wait(bell)
        return self._found.popleft()

    def __aiter__(self) -> OutputStream:
        return self

    async def __anext__(self) -> Output:
        from routilux_core._threads.awaiting import check_loop, in_thread, until_set

        check_loop("JobState.stream", "`for` instead of `async for`")
        try:
            while not self._look():
                with self._listed() as bell:
                    if self._run.engine.works_in_caller():
                        await in_thread(partial(self._wait, bell))
                    else:
                        await until_set(bell)
        except StopIteration:
            raise StopAsyncIteration from None
        return self._found.popleft()

    def _look(self) -> bool:
        """Take what there is; StopIteration where nothing comes any more."""
        ended = self._run.ending.done.is_set()  # first: what is collected before a job ends is there when it has
        if not self._found:
            self._take()
        if ended and not self._found:
            raise StopIteration
        return bool(self._found)

    def _take(self) -> None:
        collected = self._run.ledger.collected
        with self._run.engine.up_to_date(()):
            for name, taken in self._taken.items():
                more = collected.get(name, [])[taken:]
                self._taken[name] += len(more)
                self._found.extend((name, dict(payload)) for payload in more)

    @contextmanager
    def _listed(self) -> Iterator[Completion]:
        """Give something that is set when more is collected, or the job has ended: at once if it was just now."""
        run, bell = self._run, Completion()
        check_outside(run.engine, "JobState.stream")
        run.ledger.readers.append(bell)  # listed first, and then another look
        run.ending.done.add_callback(bell.set)
        try:
            self._take()
            if self._found:
                bell.set()
            yield bell
        finally:
            run.ending.done.remove_callback(bell.set)
            with suppress(ValueError):  # who has set it took it out
                run.ledger.readers.remove(bell)
            bell.set()  # for a thread that still waits for somebody who does not

    def _wait(self, bell: Completion) -> None:
        run = self._run
        if not bell.is_set() and not run.engine.wait([run], None, bell) and not bell.is_set():
            raise FlowStateError(f"nobody works on job {run.job_id} any more, so nothing more can come of it")
