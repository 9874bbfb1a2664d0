"""What workers made for themselves with `per_worker`: kept by thread, closed at the worker's end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Key = tuple[object, str]  # the owner of the declaration, and its name


class Resources:
    """The things made by the workers of one pool. Each thread touches its own; the last to leave closes the rest."""

    def __init__(self) -> None:
        self._by_thread: dict[int, dict[Key, Any]] = {}

    def get(self, thread: int, key: Key, factory: Callable[[], Any]) -> Any:
        """Return what this thread made under a key, making it when first asked for."""
        mine = self._by_thread.setdefault(thread, {})
        if key not in mine:
            mine[key] = factory()
        return mine[key]

    def close(self, thread: int) -> None:
        """Close everything that a thread made; an error is logged, and the rest is closed."""
        for (_, name), value in self._by_thread.pop(thread, {}).items():
            try:
                _close(value)
            except Exception:
                from routilux_core._log import log

                log.warning("closing %r (%s), made by per_worker, raised", name, type(value).__name__, exc_info=True)

    def close_all(self) -> None:
        """Close what is left of every thread."""
        for thread in list(self._by_thread):
            self.close(thread)


def _close(value: Any) -> None:
    if callable(getattr(value, "close", None)):
        value.close()
    elif hasattr(type(value), "__exit__"):
        value.__exit__(None, None, None)
