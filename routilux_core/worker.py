"""A worker's side of tasks that travel as bytes: `prepare` it, `run` them, and `close` what was made on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any, overload

from routilux_core._remote.cache import process
from routilux_core._remote.executor import BatchExecutor
from routilux_core._remote.preparation import prepare
from routilux_core._remote.wire import read_payload
from routilux_core.strategy import Piece

__all__ = ["close", "prepare", "run"]


@overload
def run(
    payload: bytes,
    send: Callable[[bytes], None] | None = None,
    *,
    mark: Callable[[int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    mark_every: float | None = None,
) -> bytes: ...


@overload
def run(
    payload: None = None,
    send: Callable[[list[Piece]], None] | None = None,
    *,
    pieces: Sequence[Piece],
    mark: Callable[[int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    mark_every: float | None = None,
) -> list[Piece]: ...


def run(
    payload: bytes | None = None,
    send: Callable[[Any], None] | None = None,
    *,
    pieces: Sequence[Piece] | None = None,
    mark: Callable[[int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    mark_every: float | None = None,
) -> Any:
    """Run the activations of a task's `payload`, and return the reply for `Task.finish`.

    Given a task's `pieces` instead, it returns pieces, and gives lists of pieces to `send`: what is large in there is
    not copied. `Task.stream` and `Task.finish` take both.

    Never raises for what a handler does. Chunks for `Task.stream` are given to `send` while it runs, from this or
    another thread, one at a time. `mark` is called with the index of each activation before it begins; `cancelled` is
    asked before each, and by `Routine.cancelled`: the rest is then not begun. Both are called for each activation: a
    word in memory that the worker shares with its pool costs the least. Where a mark is dear, let marks ride in the
    stream: with `mark_every`, a chunk says how far the task is, after so many seconds in which nothing else did; of a
    worker that dies, say `task.fail(error, at=UNKNOWN)`. Several threads may run tasks at once.
    """
    message = payload if pieces is None else pieces
    if message is None:
        raise TypeError("worker.run() needs what `Task.payload` has returned, or `pieces` of `Task.pieces`")
    label, request, parts = read_payload(message)
    context = copy_context()
    executor = BatchExecutor(label, request, send, mark, cancelled, pieces is not None, mark_every)
    return context.run(executor.run, parts, context)


def close() -> None:
    """Close everything that `per_worker` made in this process. Call it at the worker's end.

    From then on what is logged here is for the process's own log handlers again.
    """
    process().relay.leave()
    process().resources.close_everywhere()
