"""Whether a handler has begun: so that `cancel` can return when no more handlers begin."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from opcode import opmap
from threading import get_ident
from time import monotonic, sleep
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from routilux_core._local.stacks import FRAMES_ARE_SAFE, places_of

if TYPE_CHECKING:
    from routilux_core._engine.run import Run
    from routilux_core._local.worker import Worker

PATIENCE = 1.0  # seconds; only what goes before a handler can take long: a slow merge function, or a plugin's hook
MOMENT = 0.05  # seconds to wait where it can't be told: who was about to call has had a turn by then
RESUME = opmap["RESUME"]


def wait_until_begun(hands: Iterable[Worker], run: Run) -> None:
    """Wait until each worker with an activation of this job in hand has begun its handler, or dropped it.

    A worker looks whether its job was stopped just before it calls a handler, but its thread may be interrupted in
    between. Not under the lock; the job has to be stopped.
    """
    now = monotonic()
    for worker in _innermost(hands):
        item = worker.item
        if item is None or item[2] is not run or worker.thread == get_ident():
            continue
        code = _code_of(item[0].handler)
        while worker.item is item:
            begun = code is None or _is_in(worker, code)  # not written in Python: it can't be interrupted on entry
            if begun or monotonic() > now + (MOMENT if begun is None else PATIENCE):
                break
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


def _is_in(worker: Worker, code: CodeType) -> bool | None:
    """Return whether a worker is in a function, behind the step at which its thread may be interrupted on entry.

    None where that can't be told. Below the loop are the handlers of other activations.
    """
    loop = type(worker)._loop.__code__
    if not FRAMES_ARE_SAFE:
        return _is_listed(worker.thread, loop, code)
    frame: FrameType | None = sys._current_frames().get(worker.thread)
    while frame is not None and frame.f_code is not loop:
        if frame.f_code is code:
            return frame.f_lasti > _entry_of(code)
        frame = frame.f_back
    return False


def _is_listed(thread: int, loop: CodeType, code: CodeType) -> bool | None:
    for depth, place in enumerate(places_of(thread)):
        if (place.file, place.function) == (loop.co_filename, loop.co_name):
            return False
        if (place.file, place.function) == (code.co_filename, code.co_name):
            if place.line != _line_of(code, _entry_of(code)):
                return True
            if not _is_used_again(code, place.line):
                return False  # also where something is on top: then it is the function of a tracer or profiler
            return True if depth else None
    return None


def _is_used_again(code: CodeType, line: int) -> bool:
    """Return whether more of a function is on the line of its entry: a handler written in one line."""
    behind = _entry_of(code) + 2
    return any(number == line and end > behind for _, end, number in code.co_lines())


def _entry_of(code: CodeType) -> int:
    """Return the offset of the step at which a thread may be interrupted before anything of a function was done."""
    return 2 * code.co_code[::2].index(RESUME)


def _line_of(code: CodeType, offset: int) -> int | None:
    return next((line for start, end, line in code.co_lines() if start <= offset < end), None)
