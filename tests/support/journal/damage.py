"""What may happen to a journal: a statement that raises, a full disk, a file that is cut, or has a bit changed."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from journal.everything import effects, make_flow, work
from journal.killing import CountingJournal, dies_at, in_fork, run
from routilux_core import JournalError, SerializationError

COUNT = 4  # events of the source
KILLED_AT = 60  # the step, of some 90: most of the job is done, and some is left


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


def each_statement_raises(
    folder: Path, strategy: str, every: int, when: str = "before"
) -> Iterator[tuple[int, str, bool]]:
    """Yield, for statements of a job, its number, what came of it, and whether the job went on well afterwards.

    What raises `after` a statement has been done: of a commit, the disk may have said so too late.
    """
    expected = run(folder, strategy, "sync", COUNT)["result"]
    for number in range(1, 1000, every):
        empty(folder)
        hit: list[int] = []

        def raises(count: int, number: int = number, hit: list[int] = hit) -> None:
            if count == number:
                hit.append(count)
                raise sqlite3.OperationalError("disk I/O error")

        told = outcome(CountingJournal(folder / "jobs.db", **{when: raises}), strategy)
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


def limited(folder: Path, strategy: str, bytes_: int) -> tuple[str, bool]:
    """Return what becomes of a job where no file may be longer than that, and whether it goes on well afterwards."""

    def run_limited() -> str:
        most = resource.getrlimit(resource.RLIMIT_FSIZE)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, most[1]))
        try:
            return outcome(CountingJournal(folder / "jobs.db"), strategy)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, most)

    empty(folder)
    expected = in_fork(folder, lambda: run(folder, strategy, "sync", COUNT))["result"]
    empty(folder)
    told = in_fork(folder, run_limited)
    after = in_fork(folder, lambda: run(folder, strategy, "sync", COUNT))
    return told, after["result"] == expected


def killed(folder: Path) -> dict[str, bytes]:
    """Return the files that a job has left whose process was killed."""
    empty(folder)
    in_fork(folder, lambda: run(folder, "sequential", "sync", COUNT, dies_at(KILLED_AT)))
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def put_back(folder: Path, files: dict[str, bytes]) -> None:
    empty(folder)
    for name, raw in files.items():
        (folder / name).write_bytes(raw)


def damaged(folder: Path, times: int, seed: int) -> Counter[str]:
    """Return how often the journal of a killed job is refused, or gives an equal result, when it was damaged."""
    prepare(folder)
    expected = run(folder, "sequential", "sync", COUNT)
    kept = killed(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    dice, found = random.Random(seed), Counter[str]()
    for index in range(times):
        put_back(folder, kept)
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
            made_twice = {line.split()[0] for line, times in Counter(effects()).items() if times > 1}
            is_equal = is_equal and made_twice <= set(told["in_doubt"])
            if any("flow.recover() goes on" in each for each in told["result"]["errors"]):
                found["refused later"] += 1  # SQLite has come upon it when it wrote, and the job says so
                continue
            found["equal" if is_equal else f"wrong: {index} of seed {seed}, {file.name}"] += 1
    return found


def damaged_at_once(folder: Path, times: int, seed: int) -> Counter[str]:
    """Do what `damaged` does in as many processes as there are processors."""
    count = os.cpu_count() or 1
    folders = [folder / f"share-{index}" for index in range(count)]
    for each in folders:
        each.mkdir()
    shares = [times // count + (index < times % count) for index in range(count)]
    found = Counter[str]()
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
        for some in pool.map(damaged, folders, shares, range(seed, seed + count)):
            found += some
    return found


def changed(raw: bytes, dice: random.Random) -> bytes:
    if dice.random() < 0.3:
        return raw[: dice.randrange(len(raw))]
    at = dice.randrange(len(raw))
    return raw[:at] + bytes([raw[at] ^ 1 << dice.randrange(8)]) + raw[at + 1 :]


def prepare(folder: Path) -> None:
    os.environ["EFFECTS"] = str(folder / "effects")
