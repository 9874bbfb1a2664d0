"""What workers made for themselves with `per_worker`: kept by thread, and closed in it, at its end at the latest."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import Any

from routilux_core.errors import is_interrupt

Key = tuple[object, str]  # the owner of the declaration, and its name
PATIENCE = 2.0  # seconds for the close of one thing, when others wait for their turn


class Resources:
    """The things made by the workers of one pool. Each thread makes, uses and closes its own."""

    def __init__(self) -> None:
        self._mine = threading.local()  # whose content goes when the thread ends, in that thread
        self._kits: set[Kit] = set()

    def get(self, key: Key, factory: Callable[[], Any]) -> Any:
        """Return what this thread made under a key, making it when first asked for."""
        keeper: Keeper | None = getattr(self._mine, "keeper", None)
        if keeper is None:
            keeper = self._mine.keeper = Keeper(self._kits)
        elif keeper.kit.stale:
            keeper.close()
            keeper.kit.stale = False
        things = keeper.kit.things
        if key not in things:
            things[key] = factory()
            self._kits.add(keeper.kit)
        return things[key]

    def drop(self, key: Key) -> None:
        """Close what this thread made under a key, if anything: who asks next makes it anew."""
        keeper: Keeper | None = getattr(self._mine, "keeper", None)
        if keeper is not None and key in keeper.kit.things:
            Closing([(key[1], keeper.kit.things.pop(key))]).go_on()

    def close_mine(self) -> None:
        """Close everything that this thread made: it is a worker no longer."""
        keeper: Keeper | None = getattr(self._mine, "keeper", None)
        if keeper is not None:
            keeper.close()

    async def close_awaited(self) -> None:
        """Close what this thread made and what has to be awaited for that; the newest first, it may need the others."""
        keeper: Keeper | None = getattr(self._mine, "keeper", None)
        things = {} if keeper is None else keeper.kit.things
        for key in [key for key, value in things.items() if _is_awaited(value)][::-1]:
            value = things.pop(key)
            try:
                await close_awaited(value)
            except Exception:
                _log_raised(key[1], value)

    def close_all(self) -> None:
        """Close what this thread made; the others close theirs at their end, or when they next ask for something.

        Many things can't be closed in another thread, and those others may be at work with them.
        """
        for kit in self._kits.copy():
            kit.stale = True
        self.close_mine()

    def close_everywhere(self) -> None:
        """Close everything in this thread: the process ends."""
        self.close_mine()
        for kit in self._kits.copy():
            kit.close()


class Kit:
    """What one thread made."""

    def __init__(self) -> None:
        self.things: dict[Key, Any] = {}
        self.stale = False  # the pool was closed: this thread is a worker no longer

    def close(self) -> None:
        """Close everything in here, whatever the closing of one thing comes to."""
        things, self.things = self.things, {}
        Closing((name, value) for (_, name), value in things.items()).go_on()


class Keeper:
    """Closes a thread's things when the thread ends: then nobody has it any more."""

    def __init__(self, kits: set[Kit]) -> None:
        self.kit = Kit()
        self._kits = kits
        self._thread = get_ident()

    def close(self) -> None:
        self._kits.discard(self.kit)
        self.kit.close()

    def __del__(self) -> None:
        if self._thread == get_ident() and not sys.is_finalizing():
            self.close()


class Closing:
    """Closes one thing after the other. While one takes too long, another thread goes on with the rest."""

    def __init__(self, things: Any) -> None:
        self._left: deque[tuple[str, Any]] = deque(things)

    def go_on(self) -> None:
        interrupt: BaseException | None = None
        while self._left:
            try:
                name, value = self._left.popleft()
            except IndexError:  # the other thread was faster
                break
            interrupt = self._close(name, value) or interrupt
        if interrupt is not None:
            raise interrupt

    def _close(self, name: str, value: Any) -> BaseException | None:
        """Close one thing; an error is logged, and a Ctrl-C returned."""
        watch = self._watch(name, value) if self._left else None
        try:
            close_plainly(value)
        except BaseException as error:  # a SystemExit, too
            if is_interrupt(error):
                return error
            _log_raised(name, value)
        finally:
            if watch is not None:
                watch.cancel()
        return None

    def _watch(self, name: str, value: Any) -> threading.Timer | None:
        watch = threading.Timer(PATIENCE, self._take_over, (name, value))
        watch.daemon = True
        try:
            watch.start()
        except RuntimeError:  # the system gives no thread
            return None
        return watch

    def _take_over(self, name: str, value: Any) -> None:
        from routilux_core._text.log import log

        log.warning(
            "closing %r (%s), made by per_worker, has not come back after %g s: what else its thread made is closed in "
            "another",
            name,
            type(value).__name__,
            PATIENCE,
        )
        self.go_on()


def _log_raised(name: str, value: Any) -> None:
    from routilux_core._text.log import log

    log.warning("closing %r (%s), made by per_worker, raised", name, type(value).__name__, exc_info=True)


def _is_awaited(value: Any) -> bool:
    return callable(getattr(value, "aclose", None)) or hasattr(type(value), "__aexit__")


async def close_awaited(value: Any) -> bool:
    """Await the end of something, and return whether it is of the kind that has to be awaited."""
    if not _is_awaited(value):
        return False
    if callable(getattr(value, "aclose", None)):
        await value.aclose()
    else:
        await value.__aexit__(None, None, None)
    return True


def close_plainly(value: Any) -> None:
    """Close something that has a `close`, or an `__exit__`."""
    if callable(getattr(value, "close", None)):
        value.close()
    elif hasattr(type(value), "__exit__"):
        value.__exit__(None, None, None)
