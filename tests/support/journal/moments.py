"""A flow killed, or paused and left, at moments drawn by seed, and gone on with in another interpreter."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import Any

from journal.everything import workers_of
from places import SUPPORT


class Moments:
    """One flow in programs of its own, of which each run has a folder."""

    def __init__(self, strategy: str, durability: str, count: int, environment: dict[str, str]) -> None:
        self.strategy, self.durability, self.count = strategy, durability, count
        self._environment = environment
        with quick_folder() as folder:
            self.expected = self._told(folder)
            self.done = {line.split(maxsplit=1)[1] for line in _effects(folder)}
        self.seconds = min(self._seconds() for _ in range(3))

    @contextmanager
    def program(self, folder: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
        """Begin a program, which is waited for."""
        arguments = [str(folder / "jobs.db"), self.strategy, str(self.count), self.durability, *more]
        with subprocess.Popen(
            [sys.executable, "-m", "journal.program", *arguments],
            cwd=SUPPORT,
            env={**self._environment, "EFFECTS": str(folder / "effects")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            yield process

    def _told(self, folder: Path, *more: str) -> Any:
        with self.program(folder, *more) as process:
            said, error = process.communicate()
        assert process.returncode == 0, error
        return json.loads(said.splitlines()[-1])

    def _seconds(self) -> float:
        """Return how long a job takes."""
        with quick_folder() as folder, self.program(folder) as process:
            assert process.stdout is not None
            process.stdout.readline()
            began = perf_counter()
            process.stdout.readline()
            return perf_counter() - began

    def kills(self, times: int, seed: int) -> Counter[str]:
        """Kill it so many times, each in a folder of its own; return what came of it how often."""
        return self._each(self.kill, times, seed)

    def pauses(self, times: int, seed: int) -> Counter[str]:
        """Pause it so many times, as `kills`."""
        return self._each(self.pause, times, seed)

    def _each(self, call: Callable[[float], list[str]], times: int, seed: int) -> Counter[str]:
        """Do something at so many moments drawn by seed, several at a time."""
        dice, found = random.Random(seed), Counter[str]()
        moments = [dice.uniform(0.0, self.seconds) for _ in range(times)]
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for some in threads.map(call, moments):
                found.update(some)
        return found

    def kill(self, after: float) -> list[str]:
        """Kill it after some seconds, and go on in a new interpreter; return what came of it."""
        with quick_folder() as folder:
            with self.program(folder) as process:
                assert process.stdout is not None
                process.stdout.readline()
                sleep(after)
                process.kill()
            told = self._told(folder)
            most = workers_of(self.strategy) if self.durability == "sync" else None
            came = "gone on with" if told["recovered"] else "had ended, or not begun"
            return [came, *(f"wrong after {after} s: {each}" for each in self.wrong(told, folder, most))]

    def pause(self, after: float) -> list[str]:
        """Pause it after some seconds, leave it, and resume it in a new interpreter; return what came of it."""
        with quick_folder() as folder:
            left = self._told(folder, str(after))["left"]
            told = self._told(folder)
            most = workers_of(self.strategy)  # what runs when the flow is closed is made again
            return [left, *(f"wrong after {after} s: {each}" for each in self.wrong(told, folder, most))]

    def wrong(self, told: Any, folder: Path, most: int | None) -> Iterator[str]:
        """Yield what is not as it is when nobody dies, or when more calls were made twice than may be."""
        for what, value in self.expected["result"].items():
            if told["result"][what] != value:
                yield f"{what}: {told['result'][what]} instead of {value}"
        made = Counter(_effects(folder))
        if {line.split(maxsplit=1)[1] for line in made} != self.done:
            yield "other calls were made"
        twice = {line.split()[0] for line, times in made.items() if times > 1}
        if most is not None and not twice <= set(told["in_doubt"]):
            yield f"made twice, and not in doubt: {twice - set(told['in_doubt'])}"
        if most is not None and sum(made.values()) - len(made) > most:
            yield f"more than {most} made twice: {twice}"


def _effects(folder: Path) -> list[str]:
    return (folder / "effects").read_text("utf-8").splitlines()


@contextmanager
def quick_folder() -> Iterator[Path]:
    """Return a folder in memory, where there is such a place: a process that is killed can't tell."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)
