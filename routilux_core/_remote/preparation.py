"""What a new worker process has to be like before anything can be unpickled there: its paths and its main module."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from routilux_core._remote.cache import process
from routilux_core.errors import StrategyError

# Of what the standard library tells its own workers: the rest is about how it starts them, or secret.
WANTED = ("sys_path", "sys_argv", "dir", "init_main_from_name", "init_main_from_path")


def preparation() -> bytes:
    """Return what `prepare` takes, as this process is now."""
    from multiprocessing import spawn

    try:
        told = spawn.get_preparation_data("routilux worker")
    except RuntimeError as error:  # it is itself being started, and imports the main module of its program
        raise StrategyError(
            f"process {os.getpid()} was started by multiprocessing, and imports the main module of the program, which "
            "starts workers: put what starts the program behind `if __name__ == '__main__':`"
        ) from error
    data = {name: told[name] for name in WANTED if name in told}
    if not os.path.exists(data.get("init_main_from_path", os.curdir)):  # a program from standard input
        del data["init_main_from_path"]
    return pickle.dumps(data)


def prepare(data: bytes) -> None:
    """Take over the paths of the flow's process, and import the program's main module as `__mp_main__`."""
    from multiprocessing import spawn

    process().serves = True
    with _being_started():
        spawn.prepare(pickle.loads(data))


@contextmanager
def _being_started() -> Iterator[None]:
    """Let a program without a guard find out that it is imported by a worker, where it would start workers."""
    from multiprocessing import current_process

    current: Any = current_process()
    before = getattr(current, "_inheriting", None)
    current._inheriting = True
    try:
        yield
    finally:
        if before is None:
            del current._inheriting
        else:
            current._inheriting = before
