"""`per_worker`: one client for each worker, made when first used, closed with the pool; and the hint to it."""

from __future__ import annotations

import gc
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import pytest

from routilux_core import (
    ConfigurationError,
    EmitError,
    Flow,
    JobState,
    Routine,
    UnknownNameError,
    event,
    per_worker,
    slot,
)

MakeFlow = Callable[..., Flow]
SECONDS = 20.0


class Client:
    """Stands for a connection: knows the threads that made it, used it and closed it."""

    made: list[Client] = []

    def __init__(self) -> None:
        self.maker = threading.get_ident()
        self.users: set[int] = set()
        self.closers: list[int] = []
        self.closed = threading.Event()
        Client.made.append(self)

    def get(self) -> None:
        assert not self.closed.is_set()
        self.users.add(threading.get_ident())

    def close(self) -> None:
        self.closers.append(threading.get_ident())
        self.closed.set()


@pytest.fixture(autouse=True)
def made() -> Iterator[list[Client]]:
    """The clients that a test lets be made."""
    Client.made = []
    yield Client.made
    Client.made = []


class Source(Routine):
    item = event("n")

    def __call__(self, count: int) -> None:
        for n in range(count):
            self.emit("item", n=n)


class Fetch(Routine, stateless=True):
    client = per_worker(Client)
    fetched = event("n")

    def __init__(self, together: int = 1) -> None:
        super().__init__()
        self.barrier = threading.Barrier(together, timeout=SECONDS)

    @slot
    def n(self, n: int) -> None:
        self.client.get()
        self.barrier.wait()
        self.emit("fetched", n=n)


class FetchOneByOne(Routine):
    client = per_worker(Client)

    @slot
    def n(self, n: int) -> None:
        self.client.get()


class FetchAndFail(Routine, stateless=True):
    client = per_worker(Client)

    @slot
    def n(self, n: int) -> None:
        self.client.get()
        raise ValueError(n)


def build(flow: Flow, routine: Routine) -> None:
    flow.add_routine(Source(), "source")
    flow.add_routine(routine, "fetch")
    flow.connect("source", "item", "fetch", "n")


def run(flow: Flow, count: int) -> JobState:
    job = flow.execute("source", {"count": count})
    assert job.wait(SECONDS), job.explain()
    return job


def closed_once_where_made(made: list[Client]) -> bool:
    return all(client.closers == [client.maker] for client in made)


def test_each_worker_makes_one_and_closes_it(make_flow: MakeFlow, made: list[Client]) -> None:
    flow = make_flow(execution_strategy="concurrent", max_workers=5)
    build(flow, Fetch(together=5))
    run(flow, 100)
    run(flow, 100)
    assert len(made) == 5
    assert [client.users for client in made] == [{client.maker} for client in made]
    assert not any(client.closers for client in made)
    flow.shutdown()
    assert closed_once_where_made(made)


@pytest.mark.parametrize("routine_type", [Fetch, FetchOneByOne])
def test_it_is_made_when_first_used_and_kept(
    make_flow: MakeFlow, strategy: dict[str, Any], made: list[Client], routine_type: type[Routine]
) -> None:
    flow = make_flow(**strategy)
    build(flow, routine_type())
    run(flow, 0)
    assert made == []
    run(flow, 50)
    most = 1 if strategy["execution_strategy"] == "sequential" else 4
    assert 1 <= len(made) <= most
    run(flow, 50)
    assert len(made) <= most
    flow.shutdown()
    assert closed_once_where_made(made)


@pytest.mark.parametrize("decision", ["stop", "continue"])
def test_it_is_closed_also_after_errors(
    make_flow: MakeFlow, strategy: dict[str, Any], made: list[Client], decision: str
) -> None:
    flow = make_flow(**strategy, error_handler=decision)
    build(flow, FetchAndFail())
    run(flow, 20)
    assert made
    flow.shutdown()
    assert closed_once_where_made(made)


def test_it_is_closed_when_the_job_was_cancelled(
    make_flow: MakeFlow, strategy: dict[str, Any], made: list[Client]
) -> None:
    flow = make_flow(**strategy)

    class CancelsItself(FetchOneByOne):
        @slot
        def n(self, n: int) -> None:
            super().n(n)
            flow.cancel()

    build(flow, CancelsItself())
    assert run(flow, 5).status == "cancelled"
    flow.shutdown()
    assert len(made) == 1
    assert closed_once_where_made(made)


def test_it_is_closed_when_the_strategy_changes_and_made_anew(make_flow: MakeFlow, made: list[Client]) -> None:
    flow = make_flow(execution_strategy="concurrent", max_workers=2)
    build(flow, Fetch())
    run(flow, 5)
    before = len(made)
    flow.set_execution_strategy("sequential")
    assert closed_once_where_made(made)
    run(flow, 5)
    assert len(made) == before + 1
    flow.shutdown()
    assert closed_once_where_made(made)


def test_it_is_closed_when_the_flow_was_forgotten(made: list[Client]) -> None:
    flow = Flow(execution_strategy="concurrent", max_workers=2)
    build(flow, Fetch(together=2))
    run(flow, 10)
    del flow
    gc.collect()
    assert [client.closed.wait(SECONDS / 4) for client in made] == [True, True]
    assert closed_once_where_made(made)


# -- threads that work while they wait, as those of a web server


def in_a_thread(call: Callable[[], Any]) -> None:
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join(SECONDS)
    assert not thread.is_alive()
    assert errors == []


def test_a_thread_that_only_waits_closes_its_own_at_its_end(make_flow: MakeFlow, made: list[Client]) -> None:
    flow = make_flow()
    build(flow, FetchOneByOne())
    for number in range(3):
        in_a_thread(lambda: (run(flow, 2), run(flow, 2)))
        assert len(made) == number + 1  # none is taken over by a thread that happens to have the number of another
        assert closed_once_where_made(made)
    run(flow, 1)
    flow.shutdown()
    assert len(made) == 4
    assert closed_once_where_made(made)


def test_a_thread_that_goes_on_after_shutdown_closes_its_own_when_it_comes_again(
    make_flow: MakeFlow, made: list[Client]
) -> None:
    flow = make_flow()
    build(flow, FetchOneByOne())
    with ThreadPoolExecutor(1) as server:
        server.submit(run, flow, 2).result(SECONDS)
        flow.shutdown()
        assert [client.closers for client in made] == [[]]  # no other thread can close it
        server.submit(run, flow, 2).result(SECONDS)
        assert closed_once_where_made(made[:1])
        assert (len(made), made[1].closers) == (2, [])
    assert closed_once_where_made(made)


def test_a_database_connection_of_a_thread_that_waits_is_closed_in_it(
    make_flow: MakeFlow, caplog: pytest.LogCaptureFixture
) -> None:
    connections: list[sqlite3.Connection] = []

    def connect() -> sqlite3.Connection:
        connections.append(sqlite3.connect(":memory:"))
        return connections[-1]

    class Query(Routine):
        database = per_worker(connect)

        @slot
        def n(self, n: int) -> None:
            self.database.execute("select 1")

    flow = make_flow()
    build(flow, Query())
    for _ in range(3):
        in_a_thread(lambda: run(flow, 2).raise_for_errors())
    flow.shutdown()
    assert caplog.records == []
    assert len(connections) == 3


# -- closing that fails


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_one_that_raises_whatever_when_closed_keeps_no_other_from_being_closed(
    make_flow: MakeFlow, strategy: dict[str, Any], made: list[Client], error: type[BaseException]
) -> None:
    class Exits:
        def close(self) -> None:
            raise error("not now")

    class Both(FetchOneByOne):
        exits = per_worker(Exits)

        @slot
        def n(self, n: int) -> None:
            assert self.exits
            super().n(n)

    flow = make_flow(**{**strategy, "max_workers": 1})
    build(flow, Both())
    assert run(flow, 1).errors == []
    here = strategy["execution_strategy"] == "sequential" and error is KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt) if here else nullcontext():
        flow.shutdown()
    assert len(made) == 1
    assert closed_once_where_made(made)


def test_one_that_hangs_when_closed_keeps_no_other_from_being_closed(
    make_flow: MakeFlow,
    strategy: dict[str, Any],
    made: list[Client],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("routilux_core._threads.resources.PATIENCE", 0.05)

    class Hangs:
        def close(self) -> None:
            assert made[0].closed.wait(SECONDS)  # until the other is closed

    class Both(FetchOneByOne):
        hangs = per_worker(Hangs)

        @slot
        def n(self, n: int) -> None:
            assert self.hangs
            super().n(n)

    flow = make_flow(**{**strategy, "max_workers": 1})
    build(flow, Both())
    assert run(flow, 1).errors == []
    flow.shutdown()
    assert [len(client.closers) for client in made] == [1]
    assert "closing 'hangs' (Hangs), made by per_worker, has not come back after 0.05 s" in caplog.text


def test_two_routines_do_not_share_one(make_flow: MakeFlow, strategy: dict[str, Any], made: list[Client]) -> None:
    class FetchTwice(FetchOneByOne):
        second = per_worker(Client)

        @slot
        def n(self, n: int) -> None:
            super().n(n)
            self.second.get()
            assert self.second is not self.client
            assert self.second is self.second

    flow = make_flow(**{**strategy, "max_workers": 1})
    build(flow, FetchTwice())
    flow.add_routine(FetchOneByOne(), "other")
    flow.connect("source", "item", "other", "n")
    assert run(flow, 3).errors == []
    flow.shutdown()
    assert len(made) == 3
    assert closed_once_where_made(made)


def test_jobs_share_it_also_where_each_has_a_copy_of_the_routine(
    make_flow: MakeFlow, strategy: dict[str, Any], made: list[Client]
) -> None:
    class PerJob(FetchOneByOne, scope="job"):
        client = per_worker(Client)

        @slot
        def n(self, n: int) -> None:
            self.client.get()

    flow = make_flow(**{**strategy, "max_workers": 1})
    build(flow, PerJob())
    for _ in range(3):
        assert run(flow, 3).errors == []
    assert len(made) == 1


def test_a_factory_that_raises_is_an_error_of_the_call_and_asked_again(
    make_flow: MakeFlow, strategy: dict[str, Any], made: list[Client]
) -> None:
    attempts: list[int] = []

    def refuses_once() -> Client:
        attempts.append(1)
        if len(attempts) == 1:
            raise ConnectionError("refused")
        return Client()

    class Connects(FetchOneByOne):
        client = per_worker(refuses_once)

    flow = make_flow(**{**strategy, "max_workers": 1}, error_handler="continue")
    build(flow, Connects())
    job = run(flow, 3)
    assert [str(failure.exception) for failure in job.errors] == ["refused"]
    assert (len(attempts), len(made), job.ledger.failed) == (2, 1, 1)


def test_one_that_fails_to_close_is_named_and_the_rest_is_closed(
    make_flow: MakeFlow, strategy: dict[str, Any], made: list[Client], caplog: pytest.LogCaptureFixture
) -> None:
    class Stuck:
        def close(self) -> None:
            raise OSError("still busy")

    class Both(FetchOneByOne):
        stuck = per_worker(Stuck)

        @slot
        def n(self, n: int) -> None:
            assert self.stuck
            super().n(n)

    flow = make_flow(**{**strategy, "max_workers": 1})
    build(flow, Both())
    assert run(flow, 1).errors == []
    with caplog.at_level(logging.WARNING, logger="routilux_core"):
        flow.shutdown()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "'stuck' (Stuck)" in caplog.text
    assert len(made) == 1
    assert closed_once_where_made(made)


def test_what_has_only_exit_is_left_by_it(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    left: list[object] = []

    class Session:
        def __enter__(self) -> Session:
            return self

        def __exit__(self, *error: object) -> None:
            left.append(error)

    class Uses(FetchOneByOne):
        client = per_worker(Session)

        @slot
        def n(self, n: int) -> None:
            assert isinstance(self.client, Session)

    flow = make_flow(**{**strategy, "max_workers": 1})
    build(flow, Uses())
    assert run(flow, 2).errors == []
    flow.shutdown()
    assert left == [(None, None, None)]


def test_it_belongs_to_a_handler(make_flow: MakeFlow) -> None:
    flow, fetch = make_flow(), Fetch()
    build(flow, fetch)
    assert isinstance(Fetch.client, per_worker)
    with pytest.raises(EmitError, match=r"Fetch\.client.*in a handler"):
        _ = fetch.client
    one_by_one = FetchOneByOne()
    with pytest.raises(ConfigurationError, match=r"FetchOneByOne\.client is made by its factory"):
        one_by_one.client = Client()


def test_a_database_connection_is_used_and_closed_in_its_own_thread(
    make_flow: MakeFlow, strategy: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """sqlite3 itself refuses any other thread, for the queries and for the close."""
    file, connections = tmp_path / "observations.db", []
    with sqlite3.connect(file) as database:
        database.execute("create table observation (n integer, value real)")
        database.executemany("insert into observation values (?, ?)", [(n, n / 2) for n in range(50)])
    database.close()

    def connect() -> sqlite3.Connection:
        connections.append(sqlite3.connect(file))
        return connections[-1]

    class Query(Routine, stateless=True):
        database = per_worker(connect)
        found = event("n", "value")

        @slot
        def n(self, n: int) -> None:
            (value,) = self.database.execute("select value from observation where n = ?", (n,)).fetchone()
            self.emit("found", n=n, value=value)

    flow = make_flow(**strategy)
    build(flow, Query())
    flow.add_output("fetch", "found")
    job = run(flow, 50)
    job.raise_for_errors()
    found = sorted((payload["n"], payload["value"]) for payload in job.outputs["fetch.found"])
    assert found == [(n, n / 2) for n in range(50)]
    flow.shutdown()
    assert caplog.records == []
    assert 1 <= len(connections) <= 4
    for connection in connections:
        with pytest.raises(sqlite3.ProgrammingError, match=r"closed|thread"):
            connection.execute("select 1")


# -- what a user is told


URLS, WORKERS, LATENCY = 200, 20, 0.004


class FetchPlainly(Routine):
    """What one writes without a second thought: it keeps nothing, and does not say so."""

    @slot
    def n(self, n: int) -> None:
        time.sleep(LATENCY)


class FetchWell(Routine, stateless=True):
    client = per_worker(Client)

    @slot
    def n(self, n: int) -> None:
        self.client.get()
        time.sleep(LATENCY)


def test_a_plain_routine_that_fetches_gets_the_hint_and_a_stateless_one_the_speed(
    make_flow: MakeFlow, made: list[Client]
) -> None:
    plain, well = (make_flow(execution_strategy="concurrent", max_workers=WORKERS) for _ in range(2))
    build(plain, FetchPlainly())
    build(well, FetchWell())
    slow, fast = run(plain, URLS), run(well, URLS)
    assert (slow.ledger.completed, fast.ledger.completed) == (URLS + 1, URLS + 1)
    (hint,) = [line for line in slow.explain().splitlines() if line.startswith("hint")]
    assert "'fetch': 200 activations one at a time" in hint
    assert "stateless=True" in hint
    assert "hint" not in fast.explain()
    assert seconds(fast) < seconds(slow) / 5
    well.shutdown()
    assert 1 <= len(made) <= WORKERS
    assert closed_once_where_made(made)


def seconds(job: JobState) -> float:
    records = job.get_execution_history()
    return max(record.ended for record in records) - min(record.posted for record in records)


class Opened:
    made: ClassVar[list[Opened]] = []

    def __init__(self, where: str) -> None:
        self.where, self.is_open = where, True
        self.made.append(self)

    def close(self) -> None:
        self.is_open = False


class Connects(Routine, stateless=True):
    dsn: str
    db = per_worker(lambda self: Opened(self.dsn))
    told = event("where", "renewed")

    @slot
    def ask(self, breaks: bool) -> None:
        before = self.db
        after = self.renew("db") if breaks else self.db
        self.emit("told", where=self.db.where, renewed=(before is not after, before.is_open, after is self.db))


def test_a_factory_may_take_its_routine_and_what_is_broken_is_renewed(
    make_flow: Callable[..., Flow], strategy: dict[str, Any]
) -> None:
    Opened.made.clear()
    flow = make_flow(**{**strategy, **({"max_workers": 1} if "max_workers" in strategy else {})})
    flow.add_routine(Connects(dsn="here"), "connects")
    flow.add_output("connects", "told", "told")
    assert flow.run("connects", {"breaks": False}).results("told") == [
        {"where": "here", "renewed": (False, True, True)}
    ]
    assert flow.run("connects", {"breaks": True}).results("told") == [{"where": "here", "renewed": (True, False, True)}]
    flow.shutdown()
    assert not any(each.is_open for each in Opened.made)


def test_what_cannot_be_renewed_is_told() -> None:
    routine = Connects(dsn="here")
    with pytest.raises(UnknownNameError, match=r"unknown per_worker declaration 'dp' \(there is: 'db'\)"):
        routine.renew("dp")
    with pytest.raises(EmitError, match=r"renew\('db'\) was called outside a handler of 'Connects'"):
        routine.renew("db")
