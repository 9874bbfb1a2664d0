"""What is done aside: in threads that nothing waits for, and that exist only while there is something to do."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

MOST = 16  # threads at a time


class Aside:
    """Makes calls that may take long, the oldest first; several may overlap."""

    def __init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Have nothing to do, and no thread: this is the child of a fork, or has just been made."""
        self._lock = threading.RLock()  # a signal handler may come in the middle
        self._calls: deque[Callable[[], None]] = deque()
        self._threads = 0

    def do(self, call: Callable[[], None]) -> None:
        """Make a call soon, in another thread; in this one where the system gives no thread. It must not raise."""
        with self._lock:
            self._calls.append(call)
            if self._threads >= MOST:
                return
        self._start()

    def _start(self) -> None:
        with self._lock:
            self._threads += 1
        thread = threading.Thread(target=self._work, name="routilux-aside", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self._work()
        except BaseException:  # a signal handler has raised: there is a thread, or not
            if thread.ident is None:
                with self._lock:
                    self._threads -= 1
            raise

    def mend(self) -> None:
        """Start a thread for what waits, if starting it was interrupted."""
        if self._calls and self._threads <= 0:
            self._start()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._calls:
                    self._threads -= 1
                    return
                call = self._calls.popleft()
            call()
