"""The climate of two cities, asked of three slow sources at the same time: the main example of Routilux Core.

The first hundred lines are the example and stand alone; what runs, measures and checks it stands below them."""

import json
import sqlite3
import time
from calendar import month_name
from contextlib import closing
from statistics import fmean
from urllib.request import urlopen

from routilux_core import Flow, JobState, Routine, event, slot


class Trigger(Routine, stateless=True):
    started = event("subject")

    @slot
    def input(self, subject: str) -> None:
        self.emit("started", subject=subject)


class FetchApi(Routine, stateless=True):  # keeps nothing between calls, so they may run in parallel
    url: str  # configuration: FetchApi(url=...)
    fetched = event("source", "unit", "step", "rows")

    @slot
    def input(self, subject: str) -> None:
        with urlopen(f"{self.url}/{subject}", timeout=10.0) as answer:
            self.emit("fetched", **json.load(answer))


class FetchDatabase(Routine, stateless=True):
    path: str
    query: str
    fetched = event("source", "unit", "step", "rows")

    @slot
    def input(self) -> None:
        with closing(sqlite3.connect(self.path)) as database:
            database.create_function("pause", 1, time.sleep, deterministic=True)  # lets a query be slow
            rows = database.execute(self.query).fetchall()
        self.emit("fetched", source="seattle-weather", unit="°C", step="days", rows=rows)


class Summarise(Routine, stateless=True):
    summarised = event("summary")

    @slot
    def input(self, source: str, unit: str, step: str, rows: list) -> None:
        dates, means, *rest = zip(*rows, strict=True)
        lows, highs, rain = rest or (means, means, ())  # an hour has one temperature, and its rain is not measured
        months: dict[str, list[float]] = {}
        for date, mean in zip(dates, means, strict=True):
            months.setdefault(date[5:7], []).append(mean)
        ranked = [month_name[int(month)] for month in sorted(months, key=lambda month: fmean(months[month]))]
        summary = {"source": source, "step": step, "count": len(rows), "unit": unit, "mean": fmean(means)}
        summary |= {"minimum": min(lows), "maximum": max(highs), "total_rain": sum(rain) if rain else None}
        self.emit("summarised", summary=summary | {"warmest_month": ranked[-1], "coldest_month": ranked[0]})


class Aggregate(Routine):  # keeps something: it handles one call at a time, and needs no lock for that
    reports: int = 0
    aggregated = event("climate", "number")

    @slot(merge_strategy="gather")  # called once, with a list of all that arrived
    def input(self, summaries: list) -> None:
        self.reports += 1
        self.emit("aggregated", climate=sorted(summaries, key=lambda each: each["source"]), number=self.reports)


class Format(Routine, stateless=True):
    formatted = event("text", "climate", "number")

    @slot
    def input(self, climate: list, number: int) -> None:
        rows = [[name, *(each[name] for each in climate)] for name in climate[0]]  # a column for each source
        lines = ("".join(f"{x:>17.2f}" if isinstance(x, float) else f"{x or '-':>17}" for x in row) for row in rows)
        self.emit("formatted", text="\n".join(lines), climate=climate, number=number)


def wire(flow: Flow, fetchers: dict[str, Routine]) -> None:
    flow.add_routine(Trigger(), "trigger")
    flow.add_routine(Aggregate(), "aggregate")
    flow.add_routine(Format(), "format")
    for source, fetcher in fetchers.items():
        flow.add_routine(fetcher, f"fetch {source}")
        flow.add_routine(Summarise(), f"process {source}")
        flow.connect("trigger", "started", f"fetch {source}", "input")
        flow.connect(f"fetch {source}", "fetched", f"process {source}", "input")
        flow.connect(f"process {source}", "summarised", "aggregate", "input", param_mapping={"summary": "summaries"})
    flow.connect("aggregate", "aggregated", "format", "input")
    flow.add_output("format", "formatted")


def climate(fetchers: dict[str, Routine], strategy: str = "concurrent") -> JobState:
    with Flow("climate", execution_strategy=strategy, max_workers=5) as flow:
        wire(flow, fetchers)
        return flow.run("trigger", entry_params={"subject": "temperature"})


# What follows is no part of the example: the sources that it asks, and what holds it to its claims.
# ruff: noqa: E402

import argparse
import csv
import functools
import io
import itertools
import logging
import math
import os
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from attrs import asdict, frozen

from routilux_core import ErrorHandler, ErrorStrategy, ExecutionTracker, Ledger, StrategyError, UnknownStrategyError

DATA = Path(__file__).resolve().parent / "data"
APIS, DATABASE = ("seattle-temps", "sf-temps"), "seattle-weather"
SOURCES = (*APIS, DATABASE)
API_SECONDS, QUERY_SECONDS = 0.2, 0.25
# SQLite answers within a millisecond. The pause, which it evaluates once for the whole query, stands for a busy server.
QUERY = f"""
    SELECT date, (temp_min + temp_max) / 2, temp_min, temp_max, precipitation
    FROM weather WHERE pause({QUERY_SECONDS}) IS NULL ORDER BY date
"""
NOTES = """
Temperatures are in the unit of their source, rain is in mm. A day counts with the middle between its
lowest and highest temperature; a month is taken over all the years.
"""
# What "faster" means to the exit code. A quiet machine shows some 2.6; a busy one is no reason to fail.
LEAST_SPEEDUP = 1.5
# How far the tracker may be from a clock around the handler. Some microseconds on a quiet machine.
TRACKER_SECONDS = 0.05

# Far longer than the process lives that is killed while it waits for the database.
FOR_EVER = 300.0

Results = dict[str, dict[str, Any]]

asked: Counter[str] = Counter()  # how often each service was, in this process, which has them all

# -- the sources


def observations(source: str) -> list[dict[str, str]]:
    with open(DATA / f"{source}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@contextmanager
def http_api(source: str, refusals: float = 0) -> Iterator[str]:
    """Serve hours as JSON and give the address; each answer takes API_SECONDS, the first `refusals` are a 500."""
    rows = [[row["date"], float(row["temp"])] for row in observations(source)]
    body = json.dumps({"source": source, "unit": "°F", "step": "hours", "rows": rows}, separators=(",", ":")).encode()
    requests = itertools.count()

    class Answer(BaseHTTPRequestHandler):
        disable_nagle_algorithm = True  # else the end of the body may wait for a delayed acknowledgement

        def do_GET(self) -> None:
            asked[source] += 1
            time.sleep(API_SECONDS)
            if next(requests) < refusals:
                self.send_error(500)
                return
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Write nothing: standard error belongs to the demo."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def make_database(path: str) -> None:
    columns = ("date", "precipitation", "temp_max", "temp_min")
    rows = [[row[column] for column in columns] for row in observations(DATABASE)]
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE weather (date TEXT, precipitation REAL, temp_max REAL, temp_min REAL)")
        database.executemany("INSERT INTO weather VALUES (?, ?, ?, ?)", rows)


@contextmanager
def open_sources() -> Iterator[dict[str, str]]:
    """Start the services and make the database file; give the address of each source."""
    with ExitStack() as stack:
        database = os.path.join(stack.enter_context(tempfile.TemporaryDirectory()), "weather.db")
        make_database(database)
        yield {**{source: stack.enter_context(http_api(source)) for source in APIS}, DATABASE: database}


def fetchers(sources: dict[str, str]) -> dict[str, Routine]:
    """Make one for each source, the slowest first; anew for each flow, because a routine belongs to one flow."""
    slowest = FetchDatabase(path=sources[DATABASE], query=QUERY)
    return {DATABASE: slowest, **{source: FetchApi(url=sources[source]) for source in APIS}}


# -- the checks: each returns what is wrong, in words


def reports_of(job: JobState) -> list[dict[str, Any]]:
    return job.outputs.get("format.formatted", [])


def results_of(job: JobState) -> Results:
    """Return the summaries by source; none where no report was made."""
    return {summary["source"]: summary for report in reports_of(job) for summary in report["climate"]}


def check_ledger(name: str, ledger: Ledger) -> list[str]:
    ended = ledger.completed + ledger.failed + ledger.skipped + ledger.discarded
    problem = f"{name}: {ledger.posted} calls posted, {ended} ended, {ledger.pending} pending"
    return [] if ledger.posted == ended and ledger.pending == 0 else [problem]


def check_job(name: str, job: JobState, status: str = "completed", failures: int = 0) -> list[str]:
    claims = {
        f"{name}: the job is {job.status}, not {status}": job.status == status,
        f"{name}: {len(job.errors)} errors, not {failures}: {job.errors}": len(job.errors) == failures,
    }
    return [problem for problem, holds in claims.items() if not holds] + check_ledger(name, job.ledger)


def check_results(name: str, found: Results, expected: Results) -> list[str]:
    problems = [f"{name}: nothing from {source}" for source in expected if source not in found]
    problems += [f"{name}: unexpected results from {source}" for source in found if source not in expected]
    both = found.keys() & expected.keys()
    return problems + [f"{name}: other figures from {source}" for source in both if found[source] != expected[source]]


def check_counts(results: Results) -> list[str]:
    """Compare how much was summarised with the files that the sources serve."""
    counts = {source: results[source]["count"] if source in results else 0 for source in SOURCES}
    expected = {source: len(observations(source)) for source in counts}
    return [f"{each}: {counts[each]} rows, not {expected[each]}" for each in counts if counts[each] != expected[each]]


def check_speedup(speedup: float) -> list[str]:
    problem = f"concurrent was {speedup:.2f} times as fast, not {LEAST_SPEEDUP} times"
    return [] if speedup >= LEAST_SPEEDUP else [problem]


def check_numbers(numbers: list[int]) -> list[str]:
    """Look whether the aggregator, which counts its reports, counted on from job to job."""
    return [] if numbers == [1, 2, 3] else [f"the reports are numbered {numbers}, not [1, 2, 3]"]


@frozen
class Policy:
    """A row of the table of error strategies: what is set, how often sf-temps refuses, what has to come of it."""

    handler: ErrorHandler
    refusals: float
    status: str
    state: str  # of the routine that asks sf-temps
    failures: int
    arriving: tuple[str, ...]


OTHERS = ("seattle-temps", "seattle-weather")
POLICIES = (
    Policy(ErrorHandler(ErrorStrategy.STOP), math.inf, "failed", "failed", 1, ()),
    Policy(ErrorHandler(ErrorStrategy.CONTINUE), math.inf, "completed", "error_continued", 1, OTHERS),
    Policy(ErrorHandler(ErrorStrategy.SKIP), math.inf, "completed", "skipped", 1, OTHERS),
    Policy(ErrorHandler(ErrorStrategy.RETRY, retry_delay=0.05), 2, "completed", "completed", 2, SOURCES),
)


def check_policy(policy: Policy, job: JobState, results: Results) -> list[str]:
    """Compare a job in which sf-temps refused with what the policy promises; `results` are those without refusals."""
    name = policy.handler.strategy.name
    problems = check_job(name, job, policy.status, policy.failures)
    problems += check_results(name, results_of(job), {source: results.get(source, {}) for source in policy.arriving})
    if (state := job.routine_states.get("fetch sf-temps")) != policy.state:
        problems.append(f"{name}: 'fetch sf-temps' is {state}, not {policy.state}")
    for failure in job.errors:
        if failure.routine_id != "fetch sf-temps" or "500" not in str(failure.exception):
            problems.append(f"{name}: {failure.exception!r} in {failure.routine_id!r}, not a 500 from sf-temps")
        if failure.decision is not policy.handler.strategy:
            problems.append(f"{name}: the decision was {failure.decision}")
    return problems


# -- the sections


@frozen
class Section:
    """What a section found: text to read, its jobs by name, and what is wrong."""

    title: str
    text: str
    jobs: dict[str, JobState]
    problems: list[str]
    timings: dict[str, float] | None = None


def run(flow: Flow) -> JobState:
    """Run a wired flow until all its work is done."""
    job = flow.execute("trigger", entry_params={"subject": "temperature"})
    if not flow.wait_for_completion(timeout=30.0):
        raise TimeoutError(f"the job has not ended after 30 s: {job.explain()}")
    return job


def concurrent_execution(sources: dict[str, str], strategy: str) -> Section:
    job = climate(fetchers(sources), strategy)
    text = [report["text"] for report in reports_of(job)]
    text += [NOTES, f"The job is {job.status}: {job.ledger.posted} calls posted, {job.ledger.completed} completed."]
    problems = check_job(strategy, job) + check_counts(results_of(job))
    return Section(f"Concurrent execution (strategy {strategy!r})", "\n".join(text), {"main": job}, problems)


class TimedFlow(Flow):
    """A flow that notes how long each handler takes by itself: by a clock around the handler, not by the engine's."""

    def __init__(self, strategy: str) -> None:
        super().__init__("climate", execution_strategy=strategy, max_workers=5)
        self.calls: dict[str, tuple[float, float]] = {}  # start and end by routine: each is called once

    def add_routine(self, routine: Routine, routine_id: str | None = None, **settings: Any) -> str:
        entry = routine.get_slot("input")
        entry.handler = self._timed(entry.handler, str(routine_id))
        return super().add_routine(routine, routine_id, **settings)

    def _timed(self, handler: Callable[..., None], routine_id: str) -> Callable[..., None]:
        @functools.wraps(handler)
        def timed(*args: Any, **kwargs: Any) -> None:
            started = time.perf_counter()
            try:
                handler(*args, **kwargs)
            finally:
                self.calls[routine_id] = (started, time.perf_counter())

        return timed

    def own_time(self, routine_ids: Iterable[str]) -> float:
        """Return the seconds in these handlers; what two of them spend at the same time counts once.

        A fetcher emits while it still closes its connection, so its processor may start before it ends.
        """
        total = until = 0.0
        for started, ended in sorted(self.calls[each] for each in routine_ids if each in self.calls):
            total += max(0.0, ended - max(started, until))
            until = max(until, ended)
        return total

    def critical_path(self) -> float:
        """Return the own time of the slowest chain from the trigger to the formatter."""
        ends = ("trigger", "aggregate", "format")
        return max(self.own_time((*ends, f"fetch {source}", f"process {source}")) for source in SOURCES)


def timed_run(sources: dict[str, str], strategy: str) -> tuple[float, JobState, TimedFlow]:
    """Return the seconds from the start until all the work is done and the workers are gone."""
    flow = TimedFlow(strategy)
    wire(flow, fetchers(sources))
    started = time.perf_counter()
    job = run(flow)
    flow.shutdown(wait=True)
    return time.perf_counter() - started, job, flow


def sequential_against_concurrent(sources: dict[str, str], results: Results) -> Section:
    sequential_s, sequential, one_by_one = timed_run(sources, "sequential")
    concurrent_s, concurrent, together = timed_run(sources, "concurrent")
    handlers_s, path_s = one_by_one.own_time(one_by_one.calls), together.critical_path()
    speedup = sequential_s / concurrent_s
    text = (
        f"sequential  {sequential_s:.4f} s; all handlers by themselves   {handlers_s:.4f} s\n"
        f"concurrent  {concurrent_s:.4f} s; the slowest chain by itself  {path_s:.4f} s\n"
        f"The same answer {speedup:.2f} times as fast, measured until all the work is done and the workers are gone."
    )
    jobs = {"sequential": sequential, "concurrent": concurrent}
    problems = check_speedup(speedup)
    for name, job in jobs.items():
        problems += check_job(name, job) + check_results(name, results_of(job), results)
    timings = {"sequential_s": sequential_s, "concurrent_s": concurrent_s, "speedup": speedup}
    timings |= {"sequential_handlers_s": handlers_s, "critical_path_s": path_s}
    return Section("Sequential against concurrent", text, jobs, problems, timings)


@contextmanager
def quiet_log() -> Iterator[None]:
    """Keep the engine's log, which tells each failure with its traceback, out of a section that asks for failures."""
    log = logging.getLogger("routilux_core")
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = False


def error_handling(sources: dict[str, str], results: Results) -> Section:
    row = "{:<9} {:<10} {:<16} {:<41} {}"
    heads = ("strategy", "the job", "fetch sf-temps", "what arrived", "job_state.errors")
    text = ["sf-temps really answers 500: always, or twice for RETRY, which asks again.", "", row.format(*heads)]
    jobs: dict[str, JobState] = {}
    problems: list[str] = []
    for policy in POLICIES:
        name = policy.handler.strategy.name
        flow = Flow("climate", "concurrent", max_workers=5, error_handler=policy.handler)
        with http_api("sf-temps", policy.refusals) as refusing, quiet_log(), flow:
            wire(flow, fetchers({**sources, "sf-temps": refusing}))
            jobs[name] = job = run(flow)
        errors = Counter(f"{failure.routine_id}: {failure.exception}" for failure in job.errors)
        told = ", ".join(f"{count} x {error}" for error, count in errors.items())
        state, arrived = job.routine_states.get("fetch sf-temps"), ", ".join(results_of(job)) or "no report"
        text.append(row.format(name, job.status, state, arrived, told))
        problems += check_policy(policy, job, results)
        for failure in job.errors:
            if isinstance(failure.exception, HTTPError):
                failure.exception.close()  # it is the service's answer, too, and holds the connection
    return Section("Error handling", "\n".join(text), jobs, problems)


def switching_strategies(sources: dict[str, str], results: Results) -> Section:
    jobs: dict[str, JobState] = {}
    text, problems = [], []
    with Flow("climate") as flow:
        wire(flow, fetchers(sources))
        for name, strategy in (("first", "sequential"), ("second", "concurrent"), ("third", "sequential")):
            flow.set_execution_strategy(strategy, max_workers=10)
            started = time.perf_counter()
            job = jobs[name] = run(flow)
            text.append(f"{name:<8}{strategy:<12}{time.perf_counter() - started:.3f} s  {job.status}")
            problems += check_job(name, job) + check_results(name, results_of(job), results)
    text.append("One flow, three jobs: the same figures, and the aggregator counted on from job to job.")
    problems += check_numbers([report["number"] for job in jobs.values() for report in reports_of(job)])
    return Section("Switching strategies", "\n".join(text), jobs, problems)


def check_tracker(tracker: ExecutionTracker, calls: dict[str, tuple[float, float]]) -> list[str]:
    """Compare the tracker's figures with what clocks around the handlers measured."""
    figures = tracker.get_all_performances()
    problems = [f"the tracker has no call of {each}" for each in calls if figures[each]["total_executions"] != 1]
    for routine_id, (started, ended) in calls.items():
        seconds = figures[routine_id]["total_execution_time"]
        if abs(seconds - (ended - started)) > TRACKER_SECONDS:
            problems.append(f"{routine_id} took {ended - started:.4f} s, the tracker says {seconds:.4f} s")
    return problems


def monitoring(sources: dict[str, str], results: Results) -> Section:
    _, job, flow = timed_run(sources, "concurrent")
    text = [f"{'routine':<26}{'calls':>5}{'success':>9}{'seconds':>9}{'slowest':>9}{'p95':>8}{'waited':>8}"]
    for routine_id, each in flow.execution_tracker.get_all_performances().items():
        counts = f"{routine_id:<26}{each['total_executions']:>5}{each['success_rate'] or 0:>9.0%}"
        times = (each["total_execution_time"], each["max_execution_time"], each["p95_execution_time"])
        seconds, slowest, p95 = (time or 0.0 for time in times)
        text.append(f"{counts}{seconds:>9.4f}{slowest:>9.4f}{p95:>8.4f}{each['avg_queue_wait'] or 0:>8.4f}")
    total = flow.execution_tracker.get_flow_performance()
    together = f"{total['parallelism'] or 0:.2f} handlers at a time"
    rates = f"{total['events']} events, {total['throughput'] or 0:.0f} calls a second"
    text.append(f"\n{total['work_time']:.4f} s of work in {total['wall_time']:.4f} s: {together}, {rates}.")
    problems = check_job("monitored", job) + check_results("monitored", results_of(job), results)
    problems += check_tracker(flow.execution_tracker, flow.calls)
    return Section("Monitoring", "\n".join(text), {"monitored": job}, problems)


def check_loaded(saved: Flow, loaded: Flow) -> list[str]:
    """Compare a loaded flow with the saved one: settings, routines, their fields, and every connection."""

    def facts(flow: Flow) -> dict[str, Any]:
        routines = {name: (type(each), each.stats()) for name, each in flow.routines.items()}
        settings = (flow.flow_id, flow.execution_strategy, flow.max_workers)
        return {"settings": settings, "routines": routines, "connections": flow.connections, "all": flow.serialize()}

    before, after = facts(saved), facts(loaded)
    problems = [f"{name}: saved {before[name]}, loaded {after[name]}" for name in before if before[name] != after[name]]
    shared = [name for name, each in loaded.routines.items() if each is saved.routines.get(name)]
    return problems + [f"{name} is the saved flow's own routine" for name in shared]


def serialization(sources: dict[str, str], results: Results) -> Section:
    with Flow("climate", execution_strategy="concurrent", max_workers=8) as flow:
        wire(flow, fetchers(sources))
        text = json.dumps(flow.serialize())
    with Flow() as loaded:
        loaded.deserialize(json.loads(text))
        job = run(loaded)
        wires, workers = len(loaded.connections), loaded.max_workers
    problems = check_job("loaded", job) + check_results("loaded", results_of(job), results)
    with Flow() as again:
        again.deserialize(json.loads(text))
        problems += check_loaded(flow, again)
    told = (
        f"{len(text):,} characters of JSON became a flow of {len(loaded.routines)} routines and {wires} connections,\n"
        f"strategy {loaded.execution_strategy!r} with max_workers={workers}, which gave the same figures: {job.status}."
    )
    return Section("Serialization", told, {"loaded": job}, problems)


def durable_flow(sources: dict[str, str], journal: str, query_seconds: float) -> Flow:
    flow = Flow("climate", execution_strategy="concurrent", max_workers=5, journal=journal)
    slowest = FetchDatabase(path=sources[DATABASE], query=QUERY.replace(str(QUERY_SECONDS), str(query_seconds)))
    wire(flow, fetchers(sources) | {DATABASE: slowest})
    return flow


def journaled_run(told: str) -> int:
    """Be the other process: begin the job and wait to be killed, or go on with it, as the JSON in `told` says."""
    sources, journal, seconds = json.loads(told)
    with durable_flow(sources, journal, seconds) as flow:
        job = flow.execute("trigger", {"subject": "temperature"}, job_id="today")
        while seconds == FOR_EVER:
            if all(job.routine_states.get(f"process {source}") == "completed" for source in APIS):
                print("two of three", flush=True)
            time.sleep(0.02)
        job.wait(30.0)
        in_doubt = [each.routine_id for each in job.in_doubt]
        print(json.dumps({"status": job.status, "results": results_of(job), "in_doubt": in_doubt}))
    return 0


def durable_job(sources: dict[str, str], results: Results) -> Section:
    before = asked.copy()
    with tempfile.TemporaryDirectory() as folder:

        def begin(query_seconds: float) -> subprocess.Popen[str]:
            told = json.dumps([sources, os.path.join(folder, "climate.db"), query_seconds])
            command = [sys.executable, os.path.abspath(__file__), "--journaled", told]
            return subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8")

        with begin(FOR_EVER) as first:
            assert first.stdout is not None
            said = first.stdout.readline()
            first.kill()  # a real kill -9: nothing is told, and nothing is tidied up
        with begin(QUERY_SECONDS) as second:
            out, _ = second.communicate(timeout=60.0)
    found = json.loads(out) if second.returncode == 0 else {"status": "not resumed", "results": {}, "in_doubt": []}
    times = {source: asked[source] - before[source] for source in APIS}
    problems = check_results("resumed", found["results"], results)
    claims = {
        f"the first process said {said!r}": said == "two of three\n",
        f"the resumed job is {found['status']}, not completed": found["status"] == "completed",
        f"the services were asked {times} times": set(times.values()) == {1},
        f"in doubt were {found['in_doubt']}": found["in_doubt"] == [f"fetch {DATABASE}"],
    }
    problems += [problem for problem, holds in claims.items() if not holds]
    told = (
        "A process was killed (kill -9) when two of three sources had answered, and another went on with its job:\n"
        f"{found['status']}, with the same figures. The two were not asked again. In doubt was {found['in_doubt']}."
    )
    return Section("A durable job", told, {}, problems)


def sections(sources: dict[str, str], strategy: str) -> Iterator[Section]:
    first = concurrent_execution(sources, strategy)
    yield first
    results = results_of(first.jobs["main"])
    for section in (
        *(sequential_against_concurrent, error_handling, switching_strategies, monitoring, serialization),
        durable_job,
    ):
        yield section(sources, results)


def job_facts(job: JobState) -> dict[str, Any]:
    errors = [
        {"routine": failure.routine_id, "error": repr(failure.exception), "decision": failure.decision}
        for failure in job.errors
    ]
    arrived = list(results_of(job))
    return {"status": job.status, "ledger": asdict(job.ledger), "arrived": arrived, "errors": errors}


def run_sections(strategy: str, say: Callable[[str], None]) -> list[Section]:
    done = []
    with open_sources() as sources:
        for number, section in enumerate(sections(sources, strategy), start=1):
            say(f"{number}. {section.title}\n\n{textwrap.indent(section.text, '   ')}\n")
            done.append(section)
    return done


def show(report: str | None, trace: str | None, jobs: dict[str, JobState]) -> list[str]:
    """Write what is to be looked at; say what could not be written."""
    both = jobs["sequential"], jobs["concurrent"]
    problems = []
    for path, write in ((report, Flow("climate").report), (trace, Flow("climate").trace)):
        try:
            if path is not None:
                write(path, *both)
        except OSError as error:
            problems.append(str(error))
    return problems


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object, and nothing else on stdout")
    parser.add_argument("--strategy", default="concurrent", metavar="NAME", help="of the first section (%(default)s)")
    parser.add_argument(
        "--report", metavar="FILE", help="write a page with sequential beside concurrent: run.html, say"
    )
    parser.add_argument("--trace", metavar="FILE", help="write a trace of both, for Perfetto: run.json.gz, say")
    parser.add_argument("--journaled", help=argparse.SUPPRESS)  # for the processes of the last section
    arguments = parser.parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without a degree sign is no reason to stop
    os.environ["no_proxy"] = "127.0.0.1"  # where the services are, and where no proxy gets
    if arguments.journaled is not None:
        return journaled_run(arguments.journaled)
    try:
        done = run_sections(arguments.strategy, (lambda text: None) if arguments.json else print)
    except (StrategyError, UnknownStrategyError) as error:
        parser.error(str(error))
    jobs = {name: job for section in done for name, job in section.jobs.items()}
    problems = [f"{section.title}: {problem}" for section in done for problem in section.problems]
    problems += show(arguments.report, arguments.trace, jobs)
    if arguments.json:
        facts = {"timings": done[1].timings, "results": results_of(jobs["main"])}
        print(json.dumps(facts | {"jobs": {name: job_facts(job) for name, job in jobs.items()}, "problems": problems}))
    elif not problems:
        print("Every section did what it claims.")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def quietly() -> int:
    """Run `main`; where nobody reads on, as behind `| head`, that is no error."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left in the buffer goes nowhere
        return 141  # as a shell tells of a program that SIGPIPE has ended
    return code


if __name__ == "__main__":
    sys.exit(quietly())
