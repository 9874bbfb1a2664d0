"""The bundled strategy `asyncio`: coroutines in an event loop, plain handlers beside it, and the loop that they get."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

import pytest

from routilux_core import (
    ActivationTimeout,
    CapabilityError,
    ConfigurationError,
    EmitError,
    ErrorHandler,
    Flow,
    JobState,
    Routine,
    StrategyError,
    UnknownNameError,
    WorkerLost,
    event,
    field,
    per_worker,
    slot,
)

MakeFlow = Callable[..., Flow]
SECONDS = 20.0


class Source(Routine):
    item = event("n")

    def __call__(self, count: int) -> None:
        for n in range(count):
            self.emit("item", n=n)


class Does(Routine, stateless=True):
    """Awaits what the test says, with itself and the number."""

    action: Callable[[Any, int], Any]
    sent = event("n")

    @slot
    async def n(self, n: int) -> None:
        await self.action(self, n)


class DoesPlainly(Routine, stateless=True):
    """Calls what the test says."""

    action: Callable[[Any, int], Any]
    sent = event("n")

    @slot
    def n(self, n: int) -> None:
        self.action(self, n)


class Keep(Routine):
    seen: list[int] = field(factory=list)

    @slot
    def n(self, n: int) -> None:
        self.seen.append(n)


def build(flow: Flow, does: Routine) -> Keep:
    """Wire source -> does -> keep."""
    keep = Keep()
    for name, routine in {"source": Source(), "does": does, "keep": keep}.items():
        flow.add_routine(routine, name)
    flow.connect("source", "item", "does", "n")
    flow.connect("does", "sent", "keep", "n")
    return keep


def run(flow: Flow, entry: str = "source", **params: Any) -> JobState:
    job = flow.execute(entry, params)
    assert job.wait(SECONDS), job.explain()
    assert job.ledger.balanced
    return job


async def send(routine: Routine, n: int) -> None:
    await asyncio.sleep(0)
    routine.emit("sent", n=n)


# -- where handlers run


def test_coroutines_run_in_the_loop_and_plain_handlers_beside_it(make_flow: MakeFlow) -> None:
    threads: dict[str, set[str]] = {"does": set(), "plain": set()}

    async def act(self: Routine, n: int) -> None:
        threads["does"].add(threading.current_thread().name)
        self.emit("sent", n=n)

    def plain(self: Routine, n: int) -> None:
        threads["plain"].add(threading.current_thread().name)
        self.emit("sent", n=n)
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()

    flow = make_flow(execution_strategy="asyncio")
    keep = build(flow, Does(action=act))
    flow.add_routine(DoesPlainly(action=plain), "plain")
    flow.connect("does", "sent", "plain", "n")
    flow.connect("plain", "sent", "keep", "n")
    job = run(flow, count=20)
    assert job.status == "completed", job.errors
    assert sorted(keep.seen) == sorted(2 * [*range(20)])
    assert threads["does"] == {"routilux-asyncio"}
    assert all(name.startswith("routilux-plain") for name in threads["plain"])


def test_plain_handlers_of_an_inline_class_run_in_the_loop(make_flow: MakeFlow) -> None:
    threads: set[str] = set()

    class DoesInline(DoesPlainly, stateless=True, inline=True):
        """Is over at once."""

    def plain(self: Routine, n: int) -> None:
        threads.add(threading.current_thread().name)
        self.emit("sent", n=n)

    flow = make_flow(execution_strategy="asyncio")
    keep = build(flow, DoesInline(action=plain))
    assert run(flow, count=20).status == "completed"
    assert (sorted(keep.seen), threads) == ([*range(20)], {"routilux-asyncio"})
    with pytest.raises(ConfigurationError, match="class Bad: inline has to be True or False, not 1"):
        type("Bad", (Routine,), {}, inline=1)


@pytest.mark.parametrize("limit", [1, 3])
def test_so_many_plain_handlers_run_at_once_and_no_more(make_flow: MakeFlow, limit: int) -> None:
    barrier, inside, most, lock = threading.Barrier(limit, timeout=SECONDS), 0, 0, threading.Lock()

    def meet(self: Routine, n: int) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        barrier.wait()
        with lock:
            inside -= 1

    flow = make_flow(execution_strategy="asyncio", strategy_options={"plain_workers": limit})
    build(flow, DoesPlainly(action=meet))
    assert run(flow, count=6 * limit).status == "completed"
    assert most == limit


def test_a_plain_handler_that_waits_holds_up_no_coroutine(make_flow: MakeFlow) -> None:
    opened = threading.Event()

    def wait(self: Routine, n: int) -> None:
        assert opened.wait(SECONDS)

    async def act(self: Routine, n: int) -> None:
        await asyncio.sleep(0)
        opened.set()

    flow = make_flow(execution_strategy="asyncio", strategy_options={"plain_workers": 1})
    flow.add_routine(Source(), "source")
    flow.add_routine(DoesPlainly(action=wait), "waits")
    flow.add_routine(Does(action=act), "opens")
    flow.add_routine(DoesPlainly(action=lambda self, n: self.emit("sent", n=n)), "first")
    flow.connect("first", "sent", "waits", "n")
    flow.connect("first", "sent", "opens", "n")
    assert run(flow, "first", n=1).status == "completed"


def test_a_plain_handler_that_emits_far_beyond_the_mark_loses_nothing(make_flow: MakeFlow) -> None:
    flow = make_flow(execution_strategy="asyncio", max_workers=4, max_pending=8)
    keep = build(flow, Does(action=send))
    assert run(flow, count=300).status == "completed"
    assert sorted(keep.seen) == list(range(300))


@pytest.mark.parametrize("policy", ["stop", "continue", "skip", "retry"])
def test_an_error_of_a_plain_handler_is_decided_as_everywhere(make_flow: MakeFlow, policy: str) -> None:
    def broken(self: Routine, n: int) -> None:
        raise LookupError(n)

    answers = []
    for strategy in ("sequential", "asyncio"):
        flow = make_flow(
            execution_strategy=strategy,
            error_handler=ErrorHandler(policy, max_retries=2, retry_delay=0.001),
        )
        build(flow, DoesPlainly(action=broken))
        job = run(flow, count=1)
        answers.append((job.status, [str(each.exception) for each in job.errors], job.routine_states, job.ledger))
    assert answers[0] == answers[1]


def test_per_worker_makes_one_for_the_loop_and_one_for_each_companion(make_flow: MakeFlow) -> None:
    made: list[str] = []
    closed: list[str] = []

    class Client:
        def __init__(self) -> None:
            made.append(threading.current_thread().name)

        def close(self) -> None:
            closed.append(threading.current_thread().name)

    class Asks(Routine, stateless=True):
        client = per_worker(Client)
        sent = event("n")

        @slot
        async def n(self, n: int) -> None:
            assert self.client is self.client
            self.emit("sent", n=n)

        @slot
        def plainly(self, n: int) -> None:
            assert self.client is self.client

    flow = make_flow(execution_strategy="asyncio", strategy_options={"plain_workers": 1})
    keep = build(flow, Asks())
    flow.connect("does", "sent", "does", "plainly")
    assert run(flow, count=5).status == "completed"
    assert sorted(made) == ["routilux-asyncio", "routilux-plain-1"]
    flow.shutdown()
    assert sorted(closed) == sorted(made)
    assert sorted(keep.seen) == list(range(5))


def test_handlers_of_two_strategies_work_in_one_flow(make_flow: MakeFlow) -> None:
    flow = make_flow(execution_strategy="concurrent", max_workers=2)
    keep = Keep()
    flow.add_routine(Source(), "source")
    flow.add_routine(Does(action=send), "does", execution_strategy="asyncio")
    flow.add_routine(keep, "keep")
    flow.connect("source", "item", "does", "n")
    flow.connect("does", "sent", "keep", "n")
    assert run(flow, count=50).status == "completed"
    assert sorted(keep.seen) == list(range(50))


# -- the loop


def test_the_loop_may_come_from_a_factory_and_is_closed_at_the_end(make_flow: MakeFlow) -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    def factory() -> asyncio.AbstractEventLoop:
        loops.append(asyncio.new_event_loop())
        return loops[-1]

    flow = make_flow(execution_strategy="asyncio", strategy_options={"loop_factory": factory})
    ran_in: list[asyncio.AbstractEventLoop] = []

    async def act(self: Routine, n: int) -> None:
        ran_in.append(asyncio.get_running_loop())

    build(flow, Does(action=act))
    for _ in range(2):
        run(flow, count=1)
        flow.shutdown()
    assert ran_in == loops
    assert len(loops) == 2
    assert all(loop.is_closed() for loop in loops)


def test_handlers_run_in_the_callers_loop_where_that_is_asked_for(make_flow: MakeFlow) -> None:
    flow = make_flow(execution_strategy="asyncio", strategy_options={"loop": "running"})
    loops: list[asyncio.AbstractEventLoop] = []

    async def act(self: Routine, n: int) -> None:
        loops.append(asyncio.get_running_loop())
        self.emit("sent", n=n)

    keep = build(flow, Does(action=act))

    async def main() -> None:
        job = flow.execute("source", {"count": 3})
        assert await asyncio.to_thread(job.wait, SECONDS)
        assert set(loops) == {asyncio.get_running_loop()}
        await asyncio.to_thread(flow.shutdown)

    asyncio.run(main())
    assert sorted(keep.seen) == [0, 1, 2]


def test_a_flow_that_is_forgotten_ends_its_loop(make_flow: MakeFlow) -> None:
    flow = Flow(execution_strategy="asyncio")
    build(flow, Does(action=send))
    run(flow, count=3)
    alive = weakref.ref(flow)
    (thread,) = [each for each in threading.enumerate() if each.name == "routilux-asyncio"]
    del flow
    for _ in range(200):  # the last worker may just be leaving
        gc.collect()
        thread.join(0.1)
        if not thread.is_alive():
            break
    assert not thread.is_alive()
    assert alive() is None


def test_a_loop_that_a_handler_stops_fails_what_runs_there_and_the_next_job_has_another(make_flow: MakeFlow) -> None:
    async def act(self: Routine, n: int) -> None:
        if n == 0:
            asyncio.get_running_loop().stop()
            await asyncio.sleep(SECONDS)

    flow = make_flow(execution_strategy="asyncio", error_handler="continue")
    build(flow, Does(action=act))
    assert run(flow, "does", n=0).errors
    assert run(flow, "does", n=1).status == "completed"


def test_an_async_handler_elsewhere_is_told_of_asyncio_by_name() -> None:
    for strategy in ("sequential", "concurrent", "process"):
        with Flow(execution_strategy=strategy) as flow, pytest.raises(CapabilityError, match="'asyncio'"):
            flow.add_routine(Does(action=send), "does")


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"plain_workers": 0}, ConfigurationError, "plain_workers has to be a whole number from 1, or None, not 0"),
        ({"loop": "runing"}, UnknownNameError, "did you mean 'running'"),
        ({"loop_factory": 3}, ConfigurationError, "loop_factory has to be what makes an event loop"),
        ({"loop": "running", "loop_factory": object}, ConfigurationError, "leave loop_factory out"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        Flow(execution_strategy="asyncio", strategy_options=options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"loop": "running"}, "needs an event loop that runs where the job begins: await flow.arun"),
        ({"loop_factory": dict}, "loop_factory made {}, which is no event loop"),
        ({"loop_factory": lambda: 1 / 0}, "ZeroDivisionError"),
    ],
)
def test_a_loop_that_there_is_not_is_a_clear_error(make_flow: MakeFlow, options: dict[str, Any], says: str) -> None:
    flow = make_flow(execution_strategy="asyncio", strategy_options=options)
    build(flow, Does(action=send))
    with pytest.raises(StrategyError, match=says):
        flow.execute("source", {"count": 1})


# -- what ends


class DoesBriefly(Does, stateless=True, timeout=0.05):
    """Has a time-out."""


def test_a_handler_over_its_time_is_cancelled_and_its_clean_up_awaited(make_flow: MakeFlow) -> None:
    cleaned: list[int] = []

    async def act(self: Routine, n: int) -> None:
        try:
            await asyncio.sleep(SECONDS)
        finally:
            await asyncio.sleep(0)
            cleaned.append(n)

    flow = make_flow(execution_strategy="asyncio", error_handler="continue")
    build(flow, DoesBriefly(action=act))
    job = run(flow, count=3)
    assert {type(each.exception) for each in job.errors} == {ActivationTimeout}
    assert sorted(cleaned) == [0, 1, 2]


def test_cancel_with_kill_ends_the_handlers_of_that_job_and_no_others(make_flow: MakeFlow) -> None:
    begun, opened = threading.Barrier(2, timeout=SECONDS), threading.Event()
    ended: list[int] = []

    async def act(self: Routine, n: int) -> None:
        begun_here.append(n)
        if len(begun_here) == 3:
            await asyncio.to_thread(begun.wait)
        while not opened.is_set():
            await asyncio.sleep(0.001)
        ended.append(n)

    begun_here: list[int] = []
    flow = make_flow(execution_strategy="asyncio", error_handler="continue")
    flow.add_routine(Does(action=act), "does")
    killed = [flow.execute("does", {"n": n}) for n in (1, 2)]
    spared = flow.execute("does", {"n": 3})
    begun.wait()
    for job in killed:
        job.cancel(kill=True)
        assert job.wait(SECONDS)
        assert job.status == "cancelled"
        (failure,) = job.errors
        assert isinstance(failure.exception, WorkerLost)
        assert "cancel(kill=True)" in str(failure.exception)
        assert job.ledger.balanced
    opened.set()
    assert spared.wait(SECONDS)
    assert (spared.status, ended) == ("completed", [3])


def test_a_handler_that_would_wait_for_ever_is_ended_with_the_pool(make_flow: MakeFlow) -> None:
    ended: list[str] = []

    async def act(self: Routine, n: int) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    flow = make_flow(execution_strategy="asyncio")
    flow.add_routine(Does(action=act), "does")
    job = flow.execute("does", {"n": 1})
    flow.shutdown(timeout=0.05)
    assert job.wait(SECONDS)
    assert job.status == "cancelled"
    assert ended in ([], ["cancelled"])  # it may not have begun
    assert job.ledger.balanced


class Closed:
    """Notes where it was closed, and how."""

    log: ClassVar[list[str]] = []

    def note(self, how: str) -> None:
        self.log.append(f"{type(self).__name__}.{how} in {threading.current_thread().name}")


class WithAclose(Closed):
    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.note("aclose")

    def close(self) -> None:
        self.note("close")


class WithAexit(Closed):
    async def __aexit__(self, *error: object) -> None:
        await asyncio.sleep(0)
        self.note("aexit")


class WithClose(Closed):
    def close(self) -> None:
        self.note("close")


class Raises(Closed):
    async def aclose(self) -> None:
        raise OSError("gone already")


class HasClients(Routine, stateless=True):
    first = per_worker(WithAclose)
    second = per_worker(WithAexit)
    third = per_worker(WithClose)
    fourth = per_worker(Raises)

    @slot
    async def n(self, n: int) -> None:
        assert self.first
        assert self.second
        assert self.third
        assert self.fourth


@pytest.mark.parametrize("loop", ["own", "running"])
def test_what_has_to_be_awaited_to_be_closed_is_awaited_at_the_end_of_the_loop(
    loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    Closed.log.clear()

    async def main() -> None:
        async with Flow(execution_strategy="asyncio", strategy_options={"loop": loop}) as flow:
            flow.add_routine(HasClients(), "clients")
            await flow.arun("clients", {"n": 1}, raise_for_errors=True)
            await flow.arun("clients", {"n": 2}, raise_for_errors=True)

    asyncio.run(main())
    where = "routilux-asyncio" if loop == "own" else threading.current_thread().name
    assert Closed.log == [f"{what} in {where}" for what in ("WithAexit.aexit", "WithAclose.aclose", "WithClose.close")]
    assert "closing 'fourth' (Raises), made by per_worker, raised" in caplog.text


class Opened(Closed):
    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.note("aclose")


async def open_slowly() -> Opened:
    Closed.log.append(f"opened in {threading.current_thread().name}")
    await asyncio.sleep(0.01)
    return Opened()


async def open_at_the_second_attempt() -> Opened:
    Closed.log.append("tried")
    await asyncio.sleep(0)
    if Closed.log.count("tried") == 1:
        raise OSError("not there yet")
    return Opened()


class Opens(Routine, stateless=True):
    client = per_worker(open_slowly)
    fickle = per_worker(open_at_the_second_attempt)
    seen: list[Any] = field(factory=list)

    @slot
    async def n(self, n: int) -> None:
        self.seen.append(await self.client)

    @slot
    async def again(self, n: int) -> None:
        self.seen.append(await self.fickle)

    @slot
    async def renew_it(self, n: int) -> None:
        before = await self.client
        self.seen.append(await self.renew("client"))
        assert self.seen[-1] is not before


def test_an_async_factory_is_awaited_once_for_the_loop_and_what_it_made_closed_there(make_flow: MakeFlow) -> None:
    Closed.log.clear()
    flow, opens = make_flow(execution_strategy="asyncio"), Opens()
    flow.add_routine(Source(), "source")
    flow.add_routine(opens, "opens")
    flow.connect("source", "item", "opens", "n")
    assert run(flow, count=20).status == "completed"
    assert len(opens.seen) == 20
    assert len(set(map(id, opens.seen))) == 1
    flow.shutdown()
    assert Closed.log == ["opened in routilux-asyncio", "Opened.aclose in routilux-asyncio"]


def test_an_async_factory_that_has_failed_is_tried_again_and_what_it_made_can_be_renewed(make_flow: MakeFlow) -> None:
    Closed.log.clear()
    flow, opens = make_flow(execution_strategy="asyncio"), Opens()
    flow.add_routine(opens, "opens")
    (failure,) = [f for _ in range(2) for f in flow.run("opens", {"n": 1}, slot="again").errors]
    assert str(failure.exception) == "not there yet"
    flow.run("opens", {"n": 1}, slot="renew_it").raise_for_errors()
    flow.shutdown()
    assert Closed.log.count("Opened.aclose in routilux-asyncio") == 3
    assert len(opens.seen) == 2


@pytest.mark.parametrize("strategy", ["asyncio", "concurrent"])
def test_a_plain_handler_is_told_to_await_what_an_async_factory_makes(make_flow: MakeFlow, strategy: str) -> None:
    class OpensPlainly(Routine):
        client = per_worker(open_slowly)

        @slot
        def n(self, n: int) -> None:
            self.client  # noqa: B018

    flow = make_flow(execution_strategy=strategy)
    flow.add_routine(OpensPlainly(), "opens")
    (failure,) = run(flow, "opens", n=1).errors
    assert str(failure.exception) == (
        "OpensPlainly.client is made by an `async def` factory, in an event loop: write `await self.client` in an "
        "`async def` handler"
    )


def test_each_call_has_a_context_of_its_own(make_flow: MakeFlow) -> None:
    seen: list[str] = []
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")

    async def act(self: Routine, n: int) -> None:
        seen.append(name.get())
        name.set("the handler")
        await asyncio.sleep(0)

    flow = make_flow(execution_strategy="asyncio", max_workers=1)
    flow.add_routine(Does(action=act), "does")
    name.set("the caller")
    run(flow, "does", n=1)
    run(flow, "does", n=1)
    assert seen == ["the caller"] * 2


# -- back-pressure


class Floods(Routine, stateless=True):
    """Emits as fast as there is room, and notes how much waits at most."""

    sent = event("n")
    job: Callable[[], Any]
    most: list[int] = field(factory=lambda: [0])

    @slot
    async def flood(self, count: int) -> None:
        for n in range(count):
            await self.emit_async("sent", n=n)
            if n % 10 == 0:
                self.most[0] = max(self.most[0], self.job().ledger.pending)


@pytest.mark.parametrize("workers", [1, 8])
@pytest.mark.parametrize("stateless", [True, False])
def test_emit_async_waits_while_too_much_waits(make_flow: MakeFlow, workers: int, stateless: bool) -> None:
    flow = make_flow(execution_strategy="asyncio", max_workers=workers, max_pending=20)
    floods = Floods(job=lambda: flow.job_state)
    flow.add_routine(floods, "floods")
    kept: list[int] = []

    async def keep(self: Routine, n: int) -> None:
        await asyncio.sleep(0)
        kept.append(n)

    class DoesInOrder(Does):
        """Has state: what waits for it lies in its mailbox."""

    flow.add_routine((Does if stateless else DoesInOrder)(action=keep), "keep")
    flow.connect("floods", "sent", "keep", "n")
    assert run(flow, "floods", count=400).status == "completed"
    assert sorted(kept) == list(range(400))
    assert floods.most[0] <= 20 + workers + 5


def test_two_that_flood_each_other_go_on(make_flow: MakeFlow) -> None:
    class Echoes(Routine):
        back = event("n")

        @slot
        async def n(self, n: int) -> None:
            for _ in range(4 if n else 0):
                await self.emit_async("back", n=n - 1)

    flow = make_flow(execution_strategy="asyncio", max_workers=2, max_pending=2)
    flow.add_routine(Echoes(), "ping")
    flow.add_routine(Echoes(), "pong")
    flow.connect("ping", "back", "pong", "n")
    flow.connect("pong", "back", "ping", "n")
    job = run(flow, "ping", n=5)
    assert job.status == "completed"
    assert job.ledger.completed == sum(4**level for level in range(6))


def test_emit_async_outside_a_coroutine_says_what_to_do(make_flow: MakeFlow) -> None:
    def plain(self: Routine, n: int) -> None:
        self.emit_async("sent", n=n)

    for strategy in ("asyncio", "concurrent", "sequential"):
        flow = make_flow(execution_strategy=strategy)
        build(flow, DoesPlainly(action=plain))
        (failure,) = run(flow, "does", n=1).errors
        assert isinstance(failure.exception, EmitError)
        assert "make the handler an `async def`, or call emit" in str(failure.exception)
    with pytest.raises(EmitError, match="outside a handler"):
        Does(action=send).emit_async("sent", n=1)


# -- a loop that is blocked


def test_who_blocks_the_loop_is_warned_of_once_and_named_by_explain(
    make_flow: MakeFlow, caplog: pytest.LogCaptureFixture
) -> None:
    async def block(self: Routine, n: int) -> None:
        await asyncio.sleep(0)
        time.sleep(0.12)
        await asyncio.sleep(0)

    flow = make_flow(execution_strategy="asyncio")
    build(flow, Does(action=block))
    job = run(flow, count=2)
    said = [record.getMessage() for record in caplog.records if "kept its event loop" in record.getMessage()]
    assert [text for text in said if "'does', slot 'n'" in text] == said[:1]
    assert len(said) == 1
    assert "hint: 'does': a handler kept its event loop from all others for 0." in job.explain()


def test_what_is_thrown_into_a_handler_arrives_and_what_it_awaits_comes_back(make_flow: MakeFlow) -> None:
    seen: list[Any] = []

    async def act(self: Routine, n: int) -> None:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, n)
        seen.append(await future)
        with suppress(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        seen.append("timed out")

    flow = make_flow(execution_strategy="asyncio")
    build(flow, Does(action=act))
    assert run(flow, "does", n=7).status == "completed"
    assert seen == [7, "timed out"]
