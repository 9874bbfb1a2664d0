"""A program that works with a journal as somebody who may not write everything: `guest.py FOLDER COUNT`.

It prints what it was told.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from journal.everything import make_flow, work
from routilux_core import JournalError

NOBODY = 65_534


def become_guest() -> None:
    """Let the rights of files count: root may do everything."""
    if not os.getuid():
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def main(folder: Path, count: int) -> None:
    logging.disable()
    with TemporaryDirectory() as other, make_flow(Path(other, "jobs.db")) as flow:
        work(flow, 1)  # what is imported late is imported now: a guest may not read all of that
    become_guest()
    os.environ["EFFECTS"] = os.devnull
    try:
        with make_flow(folder / "jobs.db") as flow:
            print(work(flow, count).status)
    except JournalError as error:
        print(f"refused: {error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
