"""A routine that fails at first, in a module that workers can import."""

from __future__ import annotations

from routilux_core import Routine, event, slot


class Flaky(Routine, stateless=True):
    """Fails at the first call for each number."""

    done = event("n")

    @slot
    def input(self, n: int, seen: str = "") -> None:
        if not _came_before(n, seen):
            raise ConnectionError(n)
        self.emit("done", n=n)


numbers: set[int] = set()


def _came_before(n: int, folder: str) -> bool:
    if not folder:
        before = n in numbers
        numbers.add(n)
        return before
    try:  # in a worker process
        with open(f"{folder}/{n}", "x"):
            return False
    except FileExistsError:
        return True
