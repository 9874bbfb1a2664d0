"""What may happen to a journal: a statement that raises, a full disk, a file that is cut, or has a bit changed."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from journal.everything import make_flow, work
from journal.killing import CountingJournal, dies_at, in_fork, run
from routilux_core import JournalError, SerializationError

COUNT = 4  # events of the source


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def outcome(journal: CountingJournal, strategy: str) -> str:
    """Return what becomes of a job whose journal fails: it says so, or has ended before."""
    try:
        with make_flow(journal, strategy) as flow:
            job = work(flow, COUNT)
            kinds = [type(each.exception) for each in job.errors]
            return "told" if job.status == "failed" and JournalError in kinds else job.status
    except JournalError:
        return "told"


def each_statement_raises(folder: Path, strategy: str, every: int) -> Iterator[tuple[int, str, bool]]:
    """Yield, for statements of a job, its number, what came of it, and whether the job went on well afterwards."""
    expected = run(folder, strategy, "sync", COUNT)["result"]
    for number in range(1, 1000, every):
        empty(folder)
        hit: list[int] = []

        def raises(count: int, number: int = number, hit: list[int] = hit) -> None:
            if count == number:
                hit.append(count)
                raise sqlite3.OperationalError("disk I/O error")

        told = outcome(CountingJournal(folder / "jobs.db", raises), strategy)
        if not hit:
            return
        yield number, told, run(folder, strategy, "sync", COUNT)["result"] == expected


class SmallJournal(CountingJournal):
    """A journal on a disk that is nearly full."""

    pages = 0

    def connect(self) -> Any:
        made = super().connect()
        if self.pages:
            made.execute(f"PRAGMA max_page_count = {self.pages}")
        return made


def damaged(folder: Path, times: int, seed: int) -> Counter[str]:
    """Return how often the journal of a killed job is refused, or gives an equal result, when it was damaged."""
    expected = run(folder, "sequential", "sync", COUNT)
    empty(folder)
    in_fork(folder, lambda: run(folder, "sequential", "sync", COUNT, dies_at(50)))
    kept = {file.name: file.read_bytes() for file in folder.iterdir()}
    shutil.rmtree(folder)
    folder.mkdir()
    dice, found = random.Random(seed), Counter[str]()
    for index in range(times):
        empty(folder)
        for name, raw in kept.items():
            (folder / name).write_bytes(raw)
        if index % 2:  # all in the file itself, nothing in the log beside it
            connection = sqlite3.connect(folder / "jobs.db")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
        files = [each for each in sorted(folder.glob("jobs.db*")) if each.stat().st_size]
        file = dice.choice(files)
        file.write_bytes(changed(file.read_bytes(), dice))
        try:
            told = run(folder, "sequential", "sync", COUNT)
        except (JournalError, SerializationError):
            found["refused"] += 1
        else:
            is_equal = told["result"] == expected["result"] and told.get("state") in (None, expected["state"])
            found["equal" if is_equal else f"wrong: {index} of seed {seed}"] += 1
    return found


def changed(raw: bytes, dice: random.Random) -> bytes:
    if dice.random() < 0.3:
        return raw[: dice.randrange(len(raw))]
    at = dice.randrange(len(raw))
    return raw[:at] + bytes([raw[at] ^ 1 << dice.randrange(8)]) + raw[at + 1 :]


def prepare(folder: Path) -> None:
    os.environ["EFFECTS"] = str(folder / "effects")
