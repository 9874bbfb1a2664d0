"""What goes to the workers of a cluster and comes back. All of it runs in the thread of the event loop."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any

from distributed.scheduler import KilledWorker

from routilux_core import UNKNOWN, Host, StrategyError, Task, WorkerLost
from routilux_dask import _remote
from routilux_dask._checks import PACKAGES, problems
from routilux_dask._fleet import AHEAD, Fleet, Worker
from routilux_dask._journal import IN_DOUBT, Story
from routilux_dask._parcel import Message, packed, unpacked

OVERDUE = 0.25  # seconds that a task may wait at one worker while another is idle
GREETING = 1.0  # seconds that a goodbye waits for a hello that is on its way
REVIVAL = 5.0  # seconds in which a neighbour of a dead worker may come up, to tell what that one had done

Calls = SimpleQueue[Callable[[], None] | None]


class Waiting:
    """Tasks that have not left yet, oldest first; any thread may touch them, under the lock."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a signal handler may cancel in the middle of a call
        self.tasks: deque[Task] = deque()


class Traffic:
    """Sends tasks to workers, and puts what comes of them into `home`.

    Each task is pinned to one worker. So nothing runs twice behind our back, whatever the scheduler's
    `allowed-failures` says, and a result that dies with its worker is not computed anew.
    """

    def __init__(
        self,
        name: str,
        client: Any,
        fleet: Fleet,
        waiting: Waiting,
        home: Calls,
        host: Host,
        lose: Callable[[str], None],
    ) -> None:
        self.fleet = fleet
        self.changed = asyncio.Event()
        self.lost = False
        self._name, self._client, self._waiting = name, client, waiting
        self._home, self._host, self._lose = home, host, lose
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._balancing = False
        self._forgotten = False  # what was away: the pool is being closed
        self._greeted: set[str] = set()  # addresses of workers that may keep something for this pool
        self._hellos: set[asyncio.Future[dict[str, Any]]] = set()  # that are on their way
        self._chores: set[asyncio.Task[None]] = set()

    def _begin(self, chore: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(chore)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    async def leave(self) -> None:
        """Say goodbye to everybody who was greeted, also if that one's answer has not come."""
        if self._hellos:
            await asyncio.wait(self._hellos, timeout=GREETING)
        if self._greeted:
            await self._client.run(_remote.leave, self._name, workers=list(self._greeted), on_error="ignore")

    async def all_home(self) -> None:
        while self.fleet.away:
            self.changed.clear()
            await self.changed.wait()

    def compare(self, there: dict[str, int]) -> None:
        """Make good for news of workers that were missed."""
        for address in self.fleet.workers.keys() - there.keys():
            self._left(address, "the scheduler does not have it any more")
        new = [address for address in there if address not in self.fleet.workers]
        if new:
            self._begin(self.welcome(new))

    def forget(self) -> None:
        """Let go of what is away: the engine fails it. Nobody is greeted any more."""
        self._forgotten = True
        for worker in self.fleet.workers.values():
            worker.away.clear()
            for future in worker.futures.values():
                future.release()
            worker.futures.clear()
        for chore in list(self._chores):
            chore.cancel()

    # -- workers come and go

    def heard(self, event: tuple[float, Any]) -> None:
        """Take in an event of the scheduler's topic `all`."""
        _, said = event
        if not isinstance(said, dict) or self.lost or self._forgotten:
            return
        if said.get("action") == "add-worker":
            self._begin(self.welcome([said["worker"]]))
        elif said.get("action") == "remove-worker":
            self._left(said["worker"], "its process or its connection ended")

    async def welcome(self, addresses: list[str]) -> None:
        for problem in await self.greet(addresses):
            self._host.log.warning("strategy 'dask': %s; it gets no tasks", problem)
        self.assign()

    async def greet(self, addresses: list[str]) -> list[str]:
        """Take workers into the fleet; return what is wrong with those that can't be."""
        there = await self._client.nthreads(addresses)
        said = await self._client.scheduler.broadcast(
            msg={"op": "versions", "packages": list(PACKAGES)}, workers=addresses, on_error="ignore"
        )
        found = {address: problems(address, each) for address, each in said.items()}
        fine = [address for address, each in found.items() if not each]
        keep = 2 * AHEAD * max(there.values(), default=1)
        hellos = await self._say_hello(fine, keep) if fine else {}
        for address, hello in hellos.items():
            if isinstance(hello, BaseException):
                found[address].append(f"worker {address} can't import routilux_dask: {hello!r}; install it there")
            elif address not in self.fleet.workers and there.get(address):
                self.fleet.add(Worker(address, there[address], _remote.Hello(*hello)))
        self._count()
        return [problem for each in found.values() for problem in each]

    async def _say_hello(self, addresses: list[str], keep: int) -> dict[str, Any]:
        """Return what workers say, or raise; the question goes on where the one who asks is cancelled."""
        self._greeted.update(addresses)
        asked = asyncio.ensure_future(
            self._client.run(_remote.hello, self._name, keep, workers=addresses, on_error="return")
        )
        self._hellos.add(asked)
        asked.add_done_callback(self._answered)
        return await asyncio.shield(asked)

    def _answered(self, asked: asyncio.Future[dict[str, Any]]) -> None:
        self._hellos.discard(asked)
        if not asked.cancelled():
            asked.exception()  # perhaps nobody else looks at it any more

    def _count(self) -> None:
        self.fleet.count()
        changed = getattr(self._host, "workers_changed", None)  # a host of tests may have none
        if changed is not None:
            self._home.put(changed)

    def _left(self, address: str, reason: str) -> None:
        self._greeted.discard(address)
        self.gone(address, reason)

    def gone(self, address: str, reason: str) -> None:
        worker = self.fleet.workers.pop(address, None)
        if worker is None:
            return
        self._count()
        for future in worker.futures.values():
            future.release()
        away, worker.away = worker.away, {}
        self._begin(self._bury(worker, away, reason))

    async def _bury(self, worker: Worker, away: dict[int, Task], reason: str) -> None:
        """Settle what was away on a dead worker: what it had not begun goes to another."""
        told = await self._inherit(worker, list(away))
        # The calls of those in doubt are made again, each in a task of its own: one that kills takes no other along.
        self.fleet.be_careful(sum(story.begun and story.at is None for story in told))
        unbegun = []
        for task, story in zip(away.values(), told, strict=True):
            if story.begun:
                self._home.put(partial(_settle, task, story, WorkerLost(worker=str(worker), reason=reason)))
            else:
                unbegun.append(task)
        with self._waiting.lock:
            self._waiting.tasks.extendleft(reversed(unbegun))
        self.changed.set()
        self.assign()

    async def _inherit(self, worker: Worker, numbers: list[int]) -> list[Story]:
        found = _remote.inherit(worker.directory, numbers)
        loop = asyncio.get_running_loop()
        end = loop.time() + REVIVAL
        while found is None and numbers and loop.time() < end:
            arrived, neighbour = self.fleet.arrived, self.fleet.neighbour(worker)
            if neighbour is not None:
                said = await self._client.run(
                    _remote.inherit, worker.directory, numbers, workers=[neighbour.address], on_error="ignore"
                )
                found = next((stories for stories in said.values() if stories), None)
                break
            with suppress(TimeoutError):
                await asyncio.wait_for(arrived.wait(), end - loop.time())
        return [Story(*each) for each in found] if found else [IN_DOUBT] * len(numbers)

    # -- tasks go and come

    def assign(self) -> None:
        while (worker := self.fleet.idlest()) is not None:
            with self._waiting.lock:
                if not self._waiting.tasks or self.lost:
                    return
                task = self._waiting.tasks.popleft()
            self._send(task, worker)

    def _send(self, task: Task, worker: Worker) -> None:
        number = next(self._numbers)
        worker.away[number] = task
        try:
            future = self._client.submit(
                _remote.run,
                self._name,
                worker.token,
                number,
                packed(task.pieces(worker.known)),
                key=f"routilux-{self._name}-{number}",
                pure=False,
                retries=0,
                workers=[worker.address],
                allow_other_workers=False,
            )
        except Exception as error:
            del worker.away[number]
            self._home.put(partial(task.fail, StrategyError(f"Dask did not take task {task.id}: {error!r}")))
            return
        worker.futures[number], worker.sent[number] = future, self._loop.time()
        self.fleet.careful = max(0, self.fleet.careful - 1)
        self._begin(self._follow(task, worker, number, future))
        if not self._balancing:
            self._balancing = True
            self._begin(self._balance())

    async def _balance(self) -> None:
        """While something is away: move what waits behind a long call, or behind other people's tasks."""
        try:
            while self.fleet.away:
                await asyncio.sleep(OVERDUE)
                while (found := self.fleet.overdue(self._loop.time() - OVERDUE)) is not None:
                    await self._move(*found)
        finally:
            self._balancing = False

    async def _move(self, worker: Worker, number: int) -> None:
        worker.sent.pop(number, None)  # ask once: what has begun stays
        said = await self._client.run(
            _remote.give_back, self._name, number, workers=[worker.address], on_error="ignore"
        )
        task = worker.away.pop(number, None) if True in said.values() else None
        if task is None:
            return
        worker.futures.pop(number).release()
        worker.moved = number
        with self._waiting.lock:
            self._waiting.tasks.appendleft(task)
        self.assign()

    async def _follow(self, task: Task, worker: Worker, number: int, future: Any) -> None:
        try:
            told: list[Message] = await future
        except (Exception, asyncio.CancelledError) as error:
            mine = asyncio.current_task()
            if mine is not None and mine.cancelling():
                return  # the loop ends, and with it all that is away
            if number in worker.away and not self.lost:
                self._failed(task, worker, number, error)
            return
        finally:
            future.release()
            worker.futures.pop(number, None)
            worker.sent.pop(number, None)
        if worker.away.pop(number, None) is None:
            return
        worker.known |= task.parts
        self._home.put(partial(_settle, task, Story(True, None, tuple(told[:-1]), told[-1]), None))
        self.changed.set()
        self.assign()

    def _failed(self, task: Task, worker: Worker, number: int, error: BaseException) -> None:
        """Judge why a task has no reply."""
        if isinstance(error, (KilledWorker, _remote.NotMineError)):
            self.gone(worker.address, f"{type(error).__name__}: {error}")
        elif self._client.status != "running":
            self._lose("closed the connection")
        elif worker.address in self.fleet.workers:
            del worker.away[number]
            failure: Exception = StrategyError(f"worker {worker} could not run task {task.id}: {error!r}")
            if isinstance(error, asyncio.CancelledError):
                failure = WorkerLost(worker=str(worker), reason="somebody cancelled its task on the scheduler")
            failure.__cause__ = error
            self._home.put(partial(task.fail, failure))
            self.assign()

    def tell_cancelled(self, task: Task) -> None:
        found = self.fleet.find(task)
        if found is not None:
            self._begin(self._cancel_there(*found))

    async def _cancel_there(self, worker: Worker, number: int) -> None:
        # `Client.cancel` would forget the task, which then could not say whether it had run.
        with suppress(OSError):
            await self._client.run(_remote.cancel, self._name, number, workers=[worker.address], on_error="ignore")


def _settle(task: Task, story: Story, error: BaseException | None) -> None:
    """Take home what a task has told, and how it ended."""
    try:
        for chunk in story.chunks:
            task.stream(unpacked(chunk))
    finally:
        if story.reply is not None:
            task.finish(unpacked(story.reply))
        elif error is not None:
            task.fail(error, UNKNOWN if story.at is None else story.at)
