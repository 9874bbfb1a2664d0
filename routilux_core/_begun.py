"""Whether a handler has begun: so that `cancel` can return when no more handlers begin."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from opcode import opmap
from threading import get_ident
from time import monotonic, sleep
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from routilux_core._loop import Worker
    from routilux_core._run import Run

PATIENCE = 1.0  # seconds; only what goes before a handler can take long: a slow merge function, or a plugin's hook
RESUME = opmap["RESUME"]


def wait_until_begun(hands: Iterable[Worker], run: Run) -> None:
    """Wait until each worker with an activation of this job in hand has begun its handler, or dropped it.

    A worker looks whether its job was stopped just before it calls a handler, but its thread may be interrupted in
    between. Not under the lock; the job has to be stopped.
    """
    until = monotonic() + PATIENCE
    for worker in _innermost(hands):
        item = worker.item
        if item is None or item[2] is not run or worker.thread == get_ident():
            continue
        code = _code_of(item[0].handler)
        while worker.item is item and not _runs(worker, code) and monotonic() < until:
            sleep(0)


def _innermost(hands: Iterable[Worker]) -> Iterable[Worker]:
    """Return the worker of each thread whose handler is the newest; the others' handlers are on the stack below."""
    newest: dict[int, Worker] = {}
    for worker in hands:
        if worker.thread not in newest or newest[worker.thread].depth < worker.depth:
            newest[worker.thread] = worker
    return newest.values()


def _code_of(handler: Callable[..., Any]) -> CodeType | None:
    return getattr(getattr(handler, "__func__", handler), "__code__", None)


def _runs(worker: Worker, code: CodeType | None) -> bool:
    """Return whether a worker is in a function, behind the step at which its thread may be interrupted on entry."""
    if code is None:  # not written in Python: it can't be interrupted on entry
        return True
    loop = type(worker)._loop.__code__
    frame: FrameType | None = sys._current_frames().get(worker.thread)
    while frame is not None and frame.f_code is not loop:  # below it are the handlers of other activations
        if frame.f_code is code:
            return frame.f_lasti > 2 * code.co_code[::2].index(RESUME)
        frame = frame.f_back
    return False
