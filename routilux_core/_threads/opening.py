"""What an `async def` factory makes for all handlers in one event loop. Imported when somebody awaits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import Context
from typing import Any

from routilux_core._threads.resources import close_awaited, close_plainly


class Opening:
    """Made once, in a task of its own, and awaited by whoever needs it: one that gives up waiting ends nothing."""

    def __init__(self, factory: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        # In a context of its own: it would keep that of the handler which happens to ask first.
        self._making = asyncio.get_running_loop().create_task(factory(), context=Context())

    def __await__(self) -> Generator[Any, Any, Any]:
        return asyncio.shield(self._making).__await__()

    def has_failed(self) -> bool:
        """Return whether nothing was made, and who asks next has to try again."""
        made = self._making
        return made.done() and (made.cancelled() or made.exception() is not None)

    async def aclose(self) -> None:
        """Close what was made; what is still being made is ended."""
        self._making.cancel()
        await asyncio.wait((self._making,))
        if self.has_failed():
            return
        made = self._making.result()
        if not await close_awaited(made):
            close_plainly(made)

    def close(self) -> None:
        """Have it closed soon, where the event loop still runs: what replaces it does not wait for that."""
        with suppress(RuntimeError):
            self._closing = asyncio.get_running_loop().create_task(self._close_and_say(), context=Context())

    async def _close_and_say(self) -> None:
        try:
            await self.aclose()
        except Exception:
            from routilux_core._text.log import log

            log.warning("closing what an `async def` factory of per_worker made raised", exc_info=True)
