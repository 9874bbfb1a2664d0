"""The connection of one pool with its cluster: an event loop in a thread of its own, and a thread that takes home."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple

import distributed

from routilux_core import Host, StrategyError, Task
from routilux_core.seconds import FOREVER
from routilux_dask._fleet import Fleet
from routilux_dask._forks import check, disown
from routilux_dask._traffic import Calls, Traffic, Waiting

_Client: Any = distributed.Client  # they are not typed
_LocalCluster: Any = distributed.LocalCluster

UNGUARDED = 77  # the exit code of a process of a private cluster whose main module starts one again
FAREWELL = 5.0  # seconds for saying goodbye to workers and scheduler


class Settings(NamedTuple):
    """What a connection has to know of its strategy; see `DaskStrategy`."""

    address: str | None
    max_workers: int | None
    max_batch: int
    connect_timeout: float
    silence_timeout: float


def _check_may_have_children() -> None:
    """Refuse a private cluster in a process that can't start others, such as a worker of another cluster."""
    current = multiprocessing.current_process()
    if getattr(current, "_inheriting", False) and current.name.startswith("Dask"):
        os._exit(UNGUARDED)  # it imports the main module, which leads here again: its parent says so, once
    if current.daemon:
        raise StrategyError(
            f"a private Dask cluster can't be started in process {os.getpid()}, a worker of Dask's, perhaps: daemonic "
            "processes are not allowed to have children. Let this flow run under 'concurrent' or 'sequential', or on a "
            "cluster that is there: strategy_options={'address': ...}"
        )


class Link:
    """Opens, looks after and closes the connection. What is not said to be for any thread is for the loop's."""

    def __init__(self, settings: Settings, host: Host) -> None:
        self._settings, self._host = settings, host
        self._waiting = Waiting()
        self._closed = False  # guarded by the lock of `waiting`
        self._cancel, self._patience = True, 0.0 if settings.address is None else None
        self._opened: Future[None] = Future()
        self._home: Calls = SimpleQueue()
        self.threads = [
            threading.Thread(target=target, name=f"routilux-dask-{name}", daemon=True)
            for name, target in (("loop", self._run), ("home", self._take_home))
        ]
        self._lost: BaseException | None = None
        self._cluster: Any = None
        self._client: Any = None
        self._traffic: Traffic | None = None

    def _start(self) -> None:
        try:
            for thread in reversed(self.threads):
                thread.start()
        except RuntimeError as error:
            self._home.put(None)
            raise StrategyError(f"the system gives no threads to talk to a Dask cluster: {error}") from error

    # -- for any thread

    @property
    def size(self) -> int:
        """How many tasks may run at a time."""
        return self._there.fleet.size

    @property
    def _there(self) -> Traffic:
        assert self._traffic is not None, "not connected yet"
        return self._traffic

    def open(self) -> None:
        """Connect; what is in the way is a `StrategyError` that says what to do about it."""
        check()
        self._start()
        try:
            self._opened.result()
        except BaseException:
            for thread in self.threads:
                thread.join(FAREWELL)
            raise

    def take(self, task: Task) -> bool:
        """Take a task; return whether the link is open."""
        with self._waiting.lock:
            if self._closed:
                return False
            self._waiting.tasks.append(task)
            self._call(self._there.assign)
        return True

    def take_back(self, task: Task) -> bool:
        with self._waiting.lock:
            if task in self._waiting.tasks:
                self._waiting.tasks.remove(task)
                return True
            if not self._closed:
                self._call(partial(self._there.tell_cancelled, task))
        return False

    def stop(self, cancel: bool, timeout: float | None) -> None:
        """Begin to close: tasks that have left may end until the time is over, unless they are cancelled."""
        with self._waiting.lock:
            if self._closed:
                return
            self._closed = True
            self._cancel, self._patience = cancel, timeout
            self._call(self._there.changed.set)

    def leave(self) -> None:
        """Leave the connection and the cluster to the parent of a fork."""
        self._closed = True
        if self._cluster is not None:
            disown(self._cluster)

    def _call(self, function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function)

    # -- the thread that takes home: the engine and its listeners may keep it busy, the loop they must not

    def _take_home(self) -> None:
        while (call := self._home.get()) is not None:
            try:
                call()
            except BaseException:  # of whatever kind: no job may wait for this thread for ever
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
                lost = StrategyError(f"the connection to the Dask scheduler ended with {error!r}")
                self._home.put(partial(self._host.lost, lost))
        finally:
            self._home.put(None)

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            await self._connect()
            self._opened.set_result(None)
            await self._serve()
        finally:
            with self._waiting.lock:
                self._closed = True
            await self._disconnect()

    async def _connect(self) -> None:
        seconds, address = min(self._settings.connect_timeout, FOREVER), self._settings.address  # Dask takes no inf
        if address is None:
            _check_may_have_children()
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
        fleet = Fleet(self._settings.max_workers, self._settings.max_batch)
        name = os.urandom(6).hex()
        self._traffic = Traffic(name, self._client, fleet, self._waiting, self._home, self._host, self._lose)
        self._client.subscribe_topic("all", self._traffic.heard)
        await self._first_workers(seconds)

    async def _private_cluster(self) -> Any:
        try:
            return await _LocalCluster(
                n_workers=self._settings.max_workers or os.cpu_count() or 1,
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
        found = await self._there.greet(list(await self._client.nthreads()))
        if found:
            raise StrategyError("the Dask cluster can't run this flow: " + "; ".join(found))

    @property
    def _where(self) -> str:
        return str(self._settings.address or self._client.scheduler.address)

    async def _serve(self) -> None:
        """Look after the scheduler until the pool is closed or the scheduler is lost."""
        limit = self._settings.silence_timeout
        alone = 0.0
        while not self._closed and self._lost is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._there.changed.wait(), limit / 4)
                self._there.changed.clear()
                continue
            try:
                there = await asyncio.wait_for(self._client.nthreads(), limit / 2)
            except (OSError, TimeoutError, asyncio.CancelledError) as error:
                self._lose(f"did not answer within {limit / 2:g} s: {error!r}")
                return
            self._there.compare(there)
            alone = alone + limit / 4 if not there else 0.0
            if alone >= max(limit, self._settings.connect_timeout):
                self._lose("has no workers left")

    async def _disconnect(self) -> None:
        there = self._traffic
        goodbyes = [self._close_client, self._close_cluster]
        if there is not None:
            if not self._cancel and self._lost is None:
                with suppress(TimeoutError):
                    await asyncio.wait_for(there.all_home(), self._patience)
            there.forget()
            if self._lost is None:
                goodbyes.insert(0, there.leave)
        for goodbye in goodbyes:
            try:
                await asyncio.wait_for(goodbye(), FAREWELL)
            except (Exception, asyncio.CancelledError) as error:
                self._host.log.debug("strategy 'dask': %s ended with %r", goodbye.__name__, error)

    async def _close_client(self) -> None:
        if self._client is not None:
            if self._client.status == "running":
                self._client.unsubscribe_topic("all")  # else the scheduler would tell the client of its own leaving
            await self._client.close()

    async def _close_cluster(self) -> None:
        if self._cluster is not None:
            await self._cluster.close()

    def _lose(self, what: str) -> None:
        """Give the scheduler up: the engine fails what is away, and opens a new pool for the next job."""
        if self._lost is not None or self._closed:
            return
        self._lost = error = StrategyError(f"the Dask scheduler at {self._where} {what}")
        with self._waiting.lock:
            self._closed = True
            self._waiting.tasks.clear()
        self._there.lost = True
        self._there.forget()
        self._home.put(lambda: self._host.lost(error))
        self._there.changed.set()
