"""What `concurrent.futures.InterpreterPoolExecutor` does, as far as a strategy needs it, for Python 3.13."""

from __future__ import annotations

import pickle
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import _interpreters  # type: ignore[import-not-found] # not public before 3.14

# What is run over there; the result goes into a file, since nothing else takes bytes of any length home.
CALL = """
import os, pickle
try:
    function, args = pickle.loads(data)
    result = True, function(*args)
except BaseException as error:
    result = False, error
with os.fdopen(descriptor, "wb", closefd=False) as file:
    pickle.dump(result, file)
"""


class InterpreterPoolExecutor(Executor):
    """Threads with an interpreter each, which is made when its thread has its first task."""

    def __init__(self, max_workers: int) -> None:
        self._max_workers = max_workers
        self._threads = ThreadPoolExecutor(max_workers, "interpreter")
        self._here = threading.local()
        self._made: list[int] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        assert not kwargs
        return self._threads.submit(self._call, pickle.dumps((fn, args)))

    def _call(self, data: bytes) -> Any:
        with tempfile.TemporaryFile() as file:
            failed = _interpreters.exec(self._interpreter(), CALL, {"data": data, "descriptor": file.fileno()})
            if failed is not None:
                raise RuntimeError(f"an interpreter could not run a task: {failed.formatted}")
            file.seek(0)
            succeeded, result = pickle.load(file)
        if not succeeded:
            raise result
        return result

    def _interpreter(self) -> int:
        made: int | None = getattr(self._here, "interpreter", None)
        if made is None:
            made = self._here.interpreter = _interpreters.create()
            self._made.append(made)
            _interpreters.exec(made, f"import sys; sys.path[:] = {sys.path!r}")
        return made

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        while wait and self._made:
            _interpreters.destroy(self._made.pop())
