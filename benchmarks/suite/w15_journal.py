"""W15: what a journal costs. 500 calls of 100 ms in 50 threads, and 5,000 short calls beside the same rows alone.

Where it is installed, DBOS makes 500 short calls as steps, beside ours that wait for the disk.
"""

from __future__ import annotations

import sqlite3
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

from suite.model import Comparison, Medians, Row, Workload, ratio
from suite.work import WorkMissing

THREADS = 50
SLOW = 500
SECONDS = 0.1
SHORT = 5_000
STEPS = 500
RUNS = 3
AT_ONCE = 256

TABLE = """
CREATE TABLE rows (owner TEXT, kind TEXT, number INTEGER, name TEXT, value TEXT, crc INTEGER,
PRIMARY KEY (owner, kind, number, name)) WITHOUT ROWID
"""


def _raw(count: int) -> float:
    """Write and delete the row of each activation, and nothing else."""
    rows = [
        ("job", "activation", n, "", f'{{"routine":"call","cause":1,"payload":{{"n":{n}}}}}', n)
        for n in range(2 * count)
    ]
    times = []
    for _ in range(RUNS):
        with TemporaryDirectory() as folder:
            connection = sqlite3.connect(Path(folder, "raw.db"), isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(TABLE)
            began = perf_counter()
            for first in range(0, len(rows), AT_ONCE):
                some = rows[first : first + AT_ONCE]
                connection.execute("BEGIN")
                connection.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?, ?)", some)
                connection.executemany(
                    "DELETE FROM rows WHERE owner = ? AND kind = ? AND number = ? AND name = ?",
                    [row[:4] for row in some],
                )
                connection.execute("COMMIT")
            times.append(perf_counter() - began)
            connection.close()
    return median(times)


def _dbos(count: int) -> float:
    """Make as many calls as steps of one workflow of DBOS, each of which is on disk before the next one begins."""
    from dbos import DBOS

    with TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder, 'dbos.db')}"
        DBOS(config={"name": "w15", "system_database_url": url, "run_admin_server": False, "log_level": "ERROR"})

        @DBOS.step()
        def call(n: int) -> int:
            return n

        @DBOS.workflow()
        def work(count: int) -> int:
            return sum(call(n) for n in range(count))

        DBOS.launch()
        try:
            work(1)
            times = []
            for _ in range(RUNS):
                began = perf_counter()
                if work(count) != sum(range(count)):
                    raise WorkMissing("DBOS has not made all calls")
                times.append(perf_counter() - began)
            return median(times)
        finally:
            DBOS.destroy()


def _ours(count: int, *, strategy: str, workers: int | None, seconds: float, durability: str | None) -> float:
    from suite.w15_flow import calls  # the limit rows must not load the engine

    return median(calls(count, strategy, workers, seconds, durability) for _ in range(RUNS))


_slow = partial(_ours, strategy="concurrent", workers=THREADS, seconds=SECONDS)
_short = partial(_ours, strategy="sequential", workers=None, seconds=0.0)


def _activations(medians: Medians) -> float:
    return 2 * SHORT / medians["async, short calls"]


WORKLOAD = Workload(
    name="W15",
    title="a journal: 500 calls of 100 ms in 50 threads, and 5,000 short calls",
    rows=(
        Row(name="50 threads, no journal", measure=partial(_slow, durability=None), size=SLOW, quick_size=THREADS),
        Row(name="50 threads, sync", measure=partial(_slow, durability="sync"), size=SLOW, quick_size=THREADS),
        Row(name="SQLite alone, the same rows", measure=_raw, size=SHORT, quick_size=SHORT // 10, limit=True),
        Row(
            name="short calls, no journal", measure=partial(_short, durability=None), size=SHORT, quick_size=SHORT // 10
        ),
        Row(name="async, short calls", measure=partial(_short, durability="async"), size=SHORT, quick_size=SHORT // 10),
        Row(name="sync, short calls", measure=partial(_short, durability="sync"), size=STEPS, quick_size=STEPS // 10),
        Row(name="DBOS on SQLite, as many steps", measure=_dbos, size=STEPS, quick_size=STEPS // 10, needs="dbos"),
    ),
    comparisons=(
        Comparison(
            goal="G15",
            text="50 threads, sync / no journal",
            compute=ratio("50 threads, sync", "50 threads, no journal"),
            gate=1.03,
            ambition=1.01,
        ),
        Comparison(
            goal="G15",
            text="async / SQLite alone",
            compute=ratio("async, short calls", "SQLite alone, the same rows"),
            gate=3.0,
            ambition=2.0,
        ),
        Comparison(
            goal="",
            text="sync, short calls / DBOS",
            compute=ratio("sync, short calls", "DBOS on SQLite, as many steps"),
        ),
        Comparison(goal="", text="async, activations a second", compute=_activations, unit=""),
    ),
)
