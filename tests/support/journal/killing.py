"""A program that kills a flow before and after each step of its journal, and looks what comes of it.

A step is a statement, or a mark that a call begins. Each run is a fork, so nothing of one is left for the next.
`killing.py FOLDER STRATEGY DURABILITY COUNT [EVERY [FIRST]]` prints how many kills there were, and each wrong result:
of each step, or of each so many, from the first one on. So several of them can share the work.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from time import perf_counter
from typing import Any

from journal.everything import effects, make_flow, result, state_of, work, workers_of
from routilux_core._journal.sqlite import SqliteJournal
from routilux_core.journal import Mark


class Steps:
    """Counts what a journal does, in whatever thread, and calls before and after each."""

    def __init__(self, before: Callable[[int], None], after: Callable[[int], None]) -> None:
        self._before, self._after = before, after
        self._numbers = itertools.count(1)
        self.count = 0

    def take(self, call: Callable[..., Any], *values: Any) -> Any:
        number = self.count = next(self._numbers)
        self._before(number)
        made = call(*values)
        self._after(number)
        return made


class Counting:
    """A connection whose statements are counted."""

    def __init__(self, connection: Any, steps: Steps) -> None:
        self._connection, self._steps = connection, steps

    def _do(self, what: str, *values: Any) -> Any:
        return self._steps.take(getattr(self._connection, what), *values)

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
    """A journal whose steps are counted, from when it is opened."""

    def __init__(
        self, path: Path, before: Callable[[int], None] = nothing, after: Callable[[int], None] = nothing
    ) -> None:
        super().__init__(path)
        self.steps = Steps(before, after)

    def connect(self) -> Any:
        return Counting(super().connect(), self.steps)

    def mark(self, place: int, mark: Mark) -> None:
        self.steps.take(super().mark, place, mark)


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
            # The fork server of the parent serves its forks, too; asked whether it runs, they would say no.
            forkserver._forkserver.ensure_running = lambda: None  # type: ignore[attr-defined]
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
    told["steps"] = journal.steps.count
    return told


def wrong(expected: Any, told: Any, durability: str, workers: int, again: bool) -> list[str]:
    """Return what is not as it should be after one kill, or after a second one while the job was recovered."""
    if told is None or "result" not in told:
        return [f"the second process did not end: {told}"]
    found = [f"{key}: {told['result'][key]} instead of {value}" for key, value in expected["result"].items()
             if told["result"][key] != value]  # fmt: skip
    if "state" in told and told["state"] != expected["state"]:
        found.append(f"state: {told['state']} instead of {expected['state']}")
    made = Counter(effects())
    if durability == "sync":
        twice = [line for line, times in made.items() if times > 1]
        if not again:  # else those of the first kill were in doubt in the process that was killed next
            found += [
                f"{line}: made twice, and not in doubt" for line in twice if line.split()[0] not in told["in_doubt"]
            ]
        if sum(made.values()) - len(made) > (2 * workers if again else workers):
            found.append(f"{len(twice)} calls made twice by {workers} workers")
    keys = {key: {line.split(maxsplit=2)[2] for line in made if line.startswith(f"{key} ")} for key in keys_of(made)}
    found += [f"{key}: the key of {len(calls)} calls: {calls}" for key, calls in keys.items() if len(calls) > 1]
    done = sorted({line.split(maxsplit=1)[1] for line in made})
    if done != expected["effects"]:
        found.append(f"done outside: {done} instead of {expected['effects']}")
    return found


def keys_of(lines: Iterable[str]) -> set[str]:
    return {line.split()[0] for line in lines}


class Kills:
    """One flow, killed again and again."""

    def __init__(self, folder: Path, strategy: str, durability: str, count: int) -> None:
        self.folder, self.durability, self.workers = folder, durability, workers_of(strategy)
        self.name = f"{strategy} {durability}"
        self.run = partial(run, folder, strategy, durability, count)
        self.kills = self.second = self.bad = 0
        self.clear()
        self.run()  # what is loaded late is loaded here, once for all forks
        self.clear()
        self.expected = self.start()
        self.expected["effects"] = sorted({line.split(maxsplit=1)[1] for line in effects()})

    def clear(self) -> None:
        for file in self.folder.iterdir():
            file.unlink()

    def start(self, **when: Any) -> Any:
        return in_fork(self.folder, lambda: self.run(**when))

    def kill(self, when: str, number: int, then: int | None = None) -> bool:
        """Kill the flow at a step, and when it is recovered perhaps again; return whether it came to that step."""
        self.clear()
        died = self.start(**{when: dies_at(number)}) is None
        self.kills += died
        if then is not None:
            self.second += self.start(**{when: dies_at(then)}) is None
        for each in wrong(self.expected, self.start(), self.durability, self.workers, then is not None):
            self.bad += 1
            print(f"{self.name}, {when} step {number}, then {then}: {each}", flush=True)
        return died

    def at_each(self, every: int, first: int) -> None:
        """Kill it before and after each step, also a second time, each time a little further."""
        number, went_on = first, True
        while went_on:
            then = 7 * number % (self.expected["steps"] + 20 - number) + 1 if number < self.expected["steps"] else 1
            kills = [self.kill(when, number) for when in ("before", "after")]
            went_on = any((*kills, self.kill(("before", "after")[number % 2], number, then)))
            number += every


def main(folder: Path, strategy: str, durability: str, count: int, every: int = 1, first: int = 1) -> None:
    os.environ["EFFECTS"] = str(folder / "effects")
    logging.disable()
    began = perf_counter()
    kills = Kills(folder, strategy, durability, count)
    kills.at_each(every, first)
    seconds = f"{perf_counter() - began:.0f} s"
    print(f"{kills.kills} kills, {kills.second} of what was recovered, {seconds}, {kills.bad} wrong")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:4], *map(int, sys.argv[4:]))
