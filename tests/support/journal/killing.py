"""A program that kills a flow before and after each statement of its journal, and looks what comes of it.

Each run is a fork, so nothing of one is left for the next. `killing.py FOLDER STRATEGY DURABILITY COUNT [EVERY]`
prints how many kills there were, and each wrong result.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from journal.everything import effects, make_flow, result, state_of, work
from routilux_core._journal.sqlite import SqliteJournal


class Counting:
    """A connection that counts its statements, and calls before and after each."""

    def __init__(self, connection: Any, before: Any, after: Any) -> None:
        self._connection, self._before, self._after = connection, before, after
        self.count = 0

    def _do(self, what: str, *values: Any) -> Any:
        self.count += 1
        self._before(self.count)
        made = getattr(self._connection, what)(*values)
        self._after(self.count)
        return made

    def execute(self, *values: Any) -> Any:
        return self._do("execute", *values)

    def executemany(self, *values: Any) -> Any:
        return self._do("executemany", *values)

    def rollback(self) -> None:
        self._connection.rollback()

    def close(self) -> None:
        self._connection.close()


def nothing(count: int) -> None:
    pass


class CountingJournal(SqliteJournal):
    """A journal whose statements are counted."""

    def __init__(self, path: Path, before: Any = nothing, after: Any = nothing) -> None:
        super().__init__(path)
        self.before, self.after = before, after
        self.made: Counting | None = None

    def connect(self) -> Any:
        self.made = Counting(super().connect(), self.before, self.after)
        return self.made


def dies_at(number: int) -> Any:
    def kill(count: int) -> None:
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return kill


def in_fork(folder: Path, call: Any) -> Any:
    """Return what a call returns in a process of its own; None if that was killed."""
    answer = folder / "answer.json"
    answer.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        code = 1
        try:
            answer.write_text(json.dumps(call()))
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return None
    return json.loads(answer.read_text()) if os.WEXITSTATUS(status) == 0 else {"exit": os.WEXITSTATUS(status)}


def run(folder: Path, strategy: str, durability: str, count: int, before: Any = nothing, after: Any = nothing) -> Any:
    journal = CountingJournal(folder / "jobs.db", before, after)
    with make_flow(journal, strategy, durability) as flow:
        job = work(flow, count)
        told = {"result": result(flow, job), "in_doubt": [each.key for each in job.in_doubt]}
        if job.routines:  # else it had ended, and this is its record
            told["state"] = state_of(flow, job)
        told["statements"] = journal.made.count if journal.made else 0
    return told


def wrong(expected: Any, told: Any, durability: str, workers: int, again: bool) -> list[str]:
    """Return what is not as it should be after one kill, or after a second one while the job was recovered."""
    if told is None or "result" not in told:
        return [f"the second process did not end: {told}"]
    found = [f"{key}: {told['result'][key]} instead of {value}" for key, value in expected["result"].items()
             if told["result"][key] != value]  # fmt: skip
    if "state" in told and told["state"] != expected["state"]:
        found.append(f"state: {told['state']} instead of {expected['state']}")
    twice = [line for line, times in Counter(effects()).items() if times > 1]
    if durability == "sync":
        if not again:  # else those of the first kill were in doubt in the process that was killed next
            found += [
                f"{line}: made twice, and not in doubt" for line in twice if line.split()[0] not in told["in_doubt"]
            ]
        if len(twice) > (2 * workers if again else workers):
            found.append(f"{len(twice)} calls made twice by {workers} workers")
    if len(set(effects())) != expected["effects"]:
        found.append(f"{len(set(effects()))} calls instead of {expected['effects']}")
    return found


def main(folder: Path, strategy: str, durability: str, count: int, every: int = 1) -> None:
    os.environ["EFFECTS"] = str(folder / "effects")
    workers = 1 if strategy == "sequential" else 3

    def clear() -> None:
        for file in folder.iterdir():
            file.unlink()

    logging.disable()
    clear()
    run(folder, strategy, durability, count)  # what is loaded late is loaded here, once for all forks
    clear()
    expected = in_fork(folder, lambda: run(folder, strategy, durability, count))
    expected["effects"] = len(set(effects()))
    kills = bad = 0
    number = 1
    while True:
        died = False
        for when in ("before", "after"):
            clear()
            first = in_fork(folder, lambda: run(folder, strategy, durability, count, **{when: dies_at(number)}))  # noqa: B023
            died = died or first is None
            kills += first is None
            again = number % 3 == 0
            if again:
                in_fork(folder, lambda: run(folder, strategy, durability, count, dies_at(7 * number % 40 + 1)))  # noqa: B023
            second = in_fork(folder, lambda: run(folder, strategy, durability, count))
            for each in wrong(expected, second, durability, workers, again):
                bad += 1
                print(f"{strategy} {durability}, {when} statement {number}: {each}")
        if not died:
            break
        number += every
    print(f"{kills} kills, {bad} wrong")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:4], *map(int, sys.argv[4:]))
