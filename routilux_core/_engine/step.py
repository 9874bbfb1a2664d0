"""One step of the engine: what is done under the lock, and what follows from it without."""

from __future__ import annotations

from types import TracebackType

from routilux_core._engine.ending import Ended, EngineRole, announce_end


class Step:
    """`with engine.step(run):` holds the lock, and ends the run with it if nothing of it is left.

    Without it the end is announced then, and what the step has asked for is done: workers are submitted, listeners
    told. None of that follows where the step has raised. So it is not for who has the lock already, or one that is
    taken before it: a task's own, say. Nor for who is interrupted by Ctrl-C where nobody mends: outside a `Visit`, in
    the thread of a caller, `with engine.lock` alone is one piece. The hot path does by hand what it needs of this.
    """

    __slots__ = ("_engine", "_run")

    def __init__(self, engine: EngineRole, run: Ended | None) -> None:
        self._engine, self._run = engine, run

    def __enter__(self) -> None:
        self._engine.acquire()  # interrupted behind this, it is for `Engine.recover`

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        engine, run = self._engine, self._run
        try:
            if error is None and run is not None:
                run.end_if_idle()
        finally:
            engine.release()
        if error is not None:
            return
        if run is not None and run.ended:
            announce_end(run)
        if engine.deferred:
            engine.run_deferred()
