"""Waiting in an event loop for what other threads do: woken, never polled. Imported when somebody awaits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import TypeVar

from routilux_core._threads.completion import Completion
from routilux_core.errors import FlowStateError

T = TypeVar("T")


def check_loop(what: str, instead: str) -> asyncio.AbstractEventLoop:
    """Return the running event loop; without one, say what to call `instead`."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise FlowStateError(
            f"{what} was awaited without a running asyncio event loop: await it in asyncio.run(...), or call {instead}"
        ) from None


async def until_set(done: Completion, timeout: float | None = None) -> bool:
    """Wait until something is set, or for so many seconds; return whether it is. Cancelling this cancels no job."""
    if done.is_set():
        return True
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody waits in it any more
            loop.call_soon_threadsafe(_resolve, woken)

    done.add_callback(wake)
    try:
        await asyncio.wait((woken,), timeout=timeout)
    finally:
        done.remove_callback(wake)
        woken.cancel()
    return done.is_set()


async def in_thread(call: Callable[[], T]) -> T:
    """Make a call that may block in a thread of its own, with the caller's context, and return what it returns.

    Cancelling this leaves the call alone. The thread is none of the loop's executor, whose end `asyncio.run` waits for.
    """
    ended, context = Completion(), copy_context()
    returned: list[T] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            returned.append(context.run(call))
        except BaseException as error:
            raised.append(error)
        ended.set()

    threading.Thread(target=work, name="routilux-await", daemon=True).start()
    await until_set(ended)
    if raised:
        raise raised.pop()
    return returned.pop()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
