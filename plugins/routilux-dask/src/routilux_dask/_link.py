"""The connection of one pool with its cluster: an event loop in a thread of its own, and a thread that takes home."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any

import distributed
from distributed.scheduler import KilledWorker

from routilux_core import Host, StrategyError, Task, WorkerLost
from routilux_dask import _remote
from routilux_dask._checks import PACKAGES, problems
from routilux_dask._fleet import AHEAD, Fleet, Worker
from routilux_dask._journal import UNKNOWN, Story
from routilux_dask._strategy import DaskStrategy

_Client: Any = distributed.Client  # they are not typed
_LocalCluster: Any = distributed.LocalCluster

FAREWELL = 5.0  # seconds for saying goodbye to workers and scheduler
OVERDUE = 0.25  # seconds that a task may wait at one worker while another is idle
REVIVAL = 5.0  # seconds in which a neighbour of a dead worker may come up, to tell what that one had done


class Link:
    """Talks with the cluster. `take`, `take_back`, `stop` and `size` are for any thread, the rest for the loop's.

    Each task is pinned to one worker. So nothing runs twice behind our back, whatever the scheduler's
    `allowed-failures` says, and a result that dies with its worker is not computed anew.
    """

    def __init__(self, strategy: DaskStrategy, host: Host) -> None:
        self.size = 1
        self._strategy, self._host = strategy, host
        self._name = os.urandom(6).hex()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._waiting: deque[Task] = deque()
        self._closed = False
        self._cancel, self._patience = True, 0.0 if strategy.address is None else None
        self._opened: Future[None] = Future()
        self._home: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.threads = [
            threading.Thread(target=target, name=f"routilux-dask-{name}", daemon=True)
            for name, target in (("loop", self._run), ("home", self._take_home))
        ]
        self._lost: BaseException | None = None
        self._balancing = False
        self._chores: set[asyncio.Task[None]] = set()
        self._cluster: Any = None
        self._client: Any = None

    # -- for any thread

    def open(self) -> None:
        """Connect; what is in the way is a `StrategyError` that says what to do about it."""
        for thread in self.threads:
            thread.start()
        try:
            self._opened.result()
        except BaseException:
            for thread in self.threads:
                thread.join(FAREWELL)
            raise

    def take(self, task: Task) -> bool:
        """Take a task; return whether the link is open."""
        with self._lock:
            if self._closed:
                return False
            self._waiting.append(task)
            self._call(self._assign)
        return True

    def take_back(self, task: Task) -> bool:
        with self._lock:
            if task in self._waiting:
                self._waiting.remove(task)
                return True
            if not self._closed:
                self._call(partial(self._tell_cancelled, task))
        return False

    def stop(self, cancel: bool, timeout: float | None) -> None:
        """Begin to close: tasks that have left may end until the time is over, unless they are cancelled."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._cancel, self._patience = cancel, timeout
            self._call(self._wake)

    def _call(self, function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function)

    # -- the thread that takes home: the engine and its listeners may keep it busy, the loop they must not

    def _take_home(self) -> None:
        while (call := self._home.get()) is not None:
            try:
                call()
            except Exception:
                self._host.log.exception("strategy 'dask': a reply could not be taken home")

    # -- the life of the loop

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as error:
            if not self._opened.done():
                self._opened.set_exception(error)
            else:
                self._host.log.warning("strategy 'dask': its connection ended with %r", error, exc_info=True)
        finally:
            self._home.put(None)

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._fleet = Fleet(self._strategy.max_workers)
        try:
            await self._connect()
            self._opened.set_result(None)
            await self._serve()
        finally:
            with self._lock:
                self._closed = True
            await self._disconnect()

    def _wake(self) -> None:
        self._changed.set()

    async def _connect(self) -> None:
        seconds, address = self._strategy.connect_timeout, self._strategy.address
        if address is None:
            self._cluster = await self._private_cluster()
        where = address if self._cluster is None else self._cluster
        try:
            self._client = await asyncio.wait_for(
                _Client(where, asynchronous=True, set_as_default=False, timeout=seconds), seconds + FAREWELL
            )
        except (OSError, ValueError, TimeoutError) as error:
            raise StrategyError(
                f"no Dask scheduler could be reached at {address!r} within {seconds:g} s: start one there with `dask "
                f"scheduler`, correct the address, or leave it out for a private cluster of processes ({error})"
            ) from error
        self._client.subscribe_topic("all", self._heard)
        await self._first_workers(seconds)

    async def _private_cluster(self) -> Any:
        try:
            return await _LocalCluster(
                n_workers=self._strategy.max_workers or os.cpu_count() or 1,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",  # nobody elsewhere may send it code
                dashboard_address="127.0.0.1:0",
                worker_dashboard_address="127.0.0.1:0",
                asynchronous=True,
                silence_logs=logging.CRITICAL,  # what goes wrong there, the flow says
                scheduler_kwargs={"allowed_failures": 0},
                memory_limit=0,  # the machine's own limits are enough
            )
        except Exception as error:
            raise StrategyError(
                f"a private Dask cluster could not be started: {error!r}; its processes import the main program, which "
                'has to start its work under `if __name__ == "__main__":`'
            ) from error

    async def _first_workers(self, seconds: float) -> None:
        least = 1 if self._cluster is None else len(self._cluster.workers)
        try:
            await self._client.wait_for_workers(least, timeout=seconds)
        except TimeoutError as error:
            raise StrategyError(
                f"the Dask scheduler at {self._where} has no workers, and none came within {seconds:g} s: start some "
                f"with `dask worker {self._where}`, or raise strategy_options={{'connect_timeout': ...}}"
            ) from error
        found = await self._greet(list(await self._client.nthreads()))
        if found:
            raise StrategyError("the Dask cluster can't run this flow: " + "; ".join(found))

    @property
    def _where(self) -> str:
        return str(self._strategy.address or self._client.scheduler.address)

    async def _serve(self) -> None:
        """Look after the scheduler until the pool is closed or the scheduler is lost."""
        limit = self._strategy.silence_timeout
        alone = 0.0
        while not self._closed and self._lost is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), limit / 4)
                self._changed.clear()
                continue
            try:
                there = await asyncio.wait_for(self._client.nthreads(), limit / 2)
            except (OSError, TimeoutError, asyncio.CancelledError) as error:
                self._lose(f"did not answer within {limit / 2:g} s: {error!r}")
                return
            self._compare(there)
            alone = alone + limit / 4 if not there else 0.0
            if alone >= max(limit, self._strategy.connect_timeout):
                self._lose("has no workers left")

    def _compare(self, there: dict[str, int]) -> None:
        """Make good for news that were missed."""
        for address in self._fleet.workers.keys() - there.keys():
            self._gone(address, "the scheduler does not have it any more")
        new = [address for address in there if address not in self._fleet.workers]
        if new:
            self._begin(self._welcome(new))

    async def _disconnect(self) -> None:
        if self._client is not None and not self._cancel and self._lost is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._all_home(), self._patience)
        self._fleet_forget()
        for chore in list(self._chores):
            chore.cancel()
        for goodbye in (self._leave, self._close_client, self._close_cluster):
            try:
                await asyncio.wait_for(goodbye(), FAREWELL)
            except (Exception, asyncio.CancelledError) as error:
                self._host.log.debug("strategy 'dask': %s ended with %r", goodbye.__name__, error)

    async def _all_home(self) -> None:
        while self._fleet.away:
            self._changed.clear()
            await self._changed.wait()

    def _fleet_forget(self) -> None:
        """Let go of what is away: the engine fails it."""
        for worker in self._fleet.workers.values():
            worker.away.clear()
            for future in worker.futures.values():
                future.release()
            worker.futures.clear()

    async def _leave(self) -> None:
        if self._client is not None and self._lost is None and self._fleet.workers:
            where = list(self._fleet.workers)
            await self._client.run(_remote.leave, self._name, workers=where, on_error="ignore")

    async def _close_client(self) -> None:
        if self._client is not None:
            if self._client.status == "running":
                self._client.unsubscribe_topic("all")  # else the scheduler would tell the client of its own leaving
            await self._client.close()

    async def _close_cluster(self) -> None:
        if self._cluster is not None:
            await self._cluster.close()

    def _begin(self, chore: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(chore)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    def _lose(self, what: str) -> None:
        """Give the scheduler up: the engine fails what is away, and opens a new pool for the next job."""
        if self._lost is not None or self._closed:
            return
        self._lost = error = StrategyError(f"the Dask scheduler at {self._where} {what}")
        with self._lock:
            self._closed = True
            self._waiting.clear()
        self._fleet_forget()
        self._home.put(lambda: self._host.lost(error))
        self._changed.set()

    # -- workers come and go

    def _heard(self, event: tuple[float, Any]) -> None:
        """Take in an event of the scheduler's topic `all`."""
        _, said = event
        if not isinstance(said, dict) or self._closed:
            return
        if said.get("action") == "add-worker":
            self._begin(self._welcome([said["worker"]]))
        elif said.get("action") == "remove-worker":
            self._gone(said["worker"], "its process or its connection ended")

    async def _welcome(self, addresses: list[str]) -> None:
        for problem in await self._greet(addresses):
            self._host.log.warning("strategy 'dask': %s; it gets no tasks", problem)
        self._assign()

    async def _greet(self, addresses: list[str]) -> list[str]:
        """Take workers into the fleet; return what is wrong with those that can't be."""
        there = await self._client.nthreads(addresses)
        said = await self._client.scheduler.broadcast(
            msg={"op": "versions", "packages": list(PACKAGES)}, workers=addresses, on_error="ignore"
        )
        found = {address: problems(address, each) for address, each in said.items()}
        fine = [address for address, each in found.items() if not each]
        keep = 2 * AHEAD * max(there.values(), default=1)
        hellos = (
            await self._client.run(_remote.hello, self._name, keep, workers=fine, on_error="return") if fine else {}
        )
        for address, hello in hellos.items():
            if isinstance(hello, BaseException):
                found[address].append(f"worker {address} can't import routilux_dask: {hello!r}; install it there")
            elif address not in self._fleet.workers and there.get(address):
                self._fleet.add(Worker(address, there[address], _remote.Hello(*hello)))
        self._count()
        return [problem for each in found.values() for problem in each]

    def _count(self) -> None:
        self.size = self._fleet.size
        changed = getattr(self._host, "workers_changed", None)  # a host of tests may have none
        if changed is not None:
            self._home.put(changed)

    def _gone(self, address: str, reason: str) -> None:
        worker = self._fleet.workers.pop(address, None)
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
        unbegun = []
        for task, story in zip(away.values(), told, strict=True):
            if story.begun:
                self._home.put(partial(_settle, task, story, WorkerLost(worker=str(worker), reason=reason)))
            else:
                unbegun.append(task)
        with self._lock:
            self._waiting.extendleft(reversed(unbegun))
        self._changed.set()
        self._assign()

    async def _inherit(self, worker: Worker, numbers: list[int]) -> list[Story]:
        found = _remote.inherit(worker.directory, numbers)
        loop = asyncio.get_running_loop()
        end = loop.time() + REVIVAL
        while found is None and numbers and loop.time() < end:
            arrived, neighbour = self._fleet.arrived, self._fleet.neighbour(worker)
            if neighbour is not None:
                said = await self._client.run(
                    _remote.inherit, worker.directory, numbers, workers=[neighbour.address], on_error="ignore"
                )
                found = next((stories for stories in said.values() if stories), None)
                break
            with suppress(TimeoutError):
                await asyncio.wait_for(arrived.wait(), end - loop.time())
        return [Story(*each) for each in found] if found else [UNKNOWN] * len(numbers)

    # -- tasks go and come

    def _assign(self) -> None:
        while (worker := self._fleet.idlest()) is not None:
            with self._lock:
                if not self._waiting or self._lost is not None:
                    return
                task = self._waiting.popleft()
            self._send(task, worker)

    def _send(self, task: Task, worker: Worker) -> None:
        number = next(self._numbers)
        worker.away[number], worker.newest = task, number
        try:
            future = self._client.submit(
                _remote.run,
                self._name,
                worker.token,
                number,
                task.payload(worker.known),
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
        self._begin(self._follow(task, worker, number, future))
        if not self._balancing:
            self._balancing = True
            self._begin(self._balance())

    async def _balance(self) -> None:
        """While something is away: move what waits behind a long call, or behind other people's tasks."""
        try:
            while self._fleet.away:
                await asyncio.sleep(OVERDUE)
                while (found := self._fleet.overdue(self._loop.time() - OVERDUE)) is not None:
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
        with self._lock:
            self._waiting.appendleft(task)
        self._assign()

    async def _follow(self, task: Task, worker: Worker, number: int, future: Any) -> None:
        try:
            told: list[bytes] = await future
        except (Exception, asyncio.CancelledError) as error:
            if number in worker.away and not self._closing:
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
        self._changed.set()
        self._assign()

    @property
    def _closing(self) -> bool:
        return self._lost is not None or self._loop.is_closed()

    def _failed(self, task: Task, worker: Worker, number: int, error: BaseException) -> None:
        """Judge why a task has no reply."""
        if isinstance(error, (KilledWorker, _remote.NotMineError)):
            self._gone(worker.address, f"{type(error).__name__}: {error}")
        elif self._client.status != "running":
            self._lose("closed the connection")
        elif worker.address in self._fleet.workers:
            del worker.away[number]
            failure: Exception = StrategyError(f"worker {worker} could not run task {task.id}: {error!r}")
            if isinstance(error, asyncio.CancelledError):
                failure = WorkerLost(worker=str(worker), reason="somebody cancelled its task on the scheduler")
            failure.__cause__ = error
            self._home.put(partial(task.fail, failure))
            self._assign()

    def _tell_cancelled(self, task: Task) -> None:
        found = self._fleet.find(task)
        if found is not None:
            self._begin(self._cancel_there(*found))

    async def _cancel_there(self, worker: Worker, number: int) -> None:
        # `Client.cancel` would forget the task, which then could not say whether it had run.
        with suppress(OSError):
            await self._client.run(_remote.cancel, self._name, number, workers=[worker.address], on_error="ignore")


def _settle(task: Task, story: Story, error: BaseException | None) -> None:
    """Take home what a task has told, and how it ended."""
    for chunk in story.chunks:
        task.stream(chunk)
    if story.reply is not None:
        task.finish(story.reply)
    elif error is not None:
        task.fail(error, story.at)
