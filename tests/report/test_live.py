"""A job that runs, served as a page: to who knows the path, on this machine, until it has ended."""

from __future__ import annotations

import json
import re
import threading
import urllib.error
import urllib.request
import zlib
from base64 import b64decode
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import pytest

from chromium import Browser
from routilux_core import Flow, JobState, Routine, event, slot
from routilux_core._report.live import Live

pytestmark = pytest.mark.once

SECONDS = 30.0


class Steps(Routine):
    """Goes on by one whenever it may."""

    step = event("n")
    may: Any = None

    @slot
    def go(self, n: int) -> None:
        assert self.may.acquire(timeout=SECONDS)
        if n:
            self.emit("step", n=n - 1)


@pytest.fixture
def running(capsys: pytest.CaptureFixture[str]) -> Iterator[tuple[JobState, threading.Semaphore, str]]:
    """A job of six steps that waits, what lets it go on, and where it is shown."""
    may = threading.Semaphore(0)
    with Flow("live", "concurrent", plugins=[Live()]) as flow:
        flow.add_routine(Steps(may=may), "steps")
        flow.connect("steps", "step", "steps", "go")
        job = flow.execute("steps", {"n": 5})
        said = capsys.readouterr().err
        found = re.search(r"live-[0-9a-f]+-1 is shown, while it runs, at (http://127\.0\.0\.1:\d+/[\w-]{20,}/)\n", said)
        assert found
        yield job, may, found[1]
        for _ in range(6):
            may.release()


def asked(url: str, method: str = "GET", **headers: str) -> int:
    request = urllib.request.Request(url, method=method, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=SECONDS) as answer:
            status: int = answer.status
            return status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def states_of(url: str) -> Iterator[dict[str, Any]]:
    """Yield what the events tell, until they end."""
    host, _, path = url.removeprefix("http://").partition("/")
    connection = HTTPConnection(host, timeout=SECONDS)
    connection.request("GET", f"/{path}events")
    answer = connection.getresponse()
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    for line in answer:
        if line.startswith(b"data: {"):
            state = json.loads(line.removeprefix(b"data: "))
            yield json.loads(zlib.decompress(b64decode(state["facts"])))["jobs"][0]
    connection.close()


def test_it_is_shown_to_who_knows_the_path_and_asks_this_machine(
    running: tuple[JobState, threading.Semaphore, str],
) -> None:
    _, _, url = running
    host, secret = url.removeprefix("http://").split("/")[:2]
    assert asked(url) == 200
    assert asked(f"http://{host}/") == 404
    assert asked(f"http://{host}/favicon.ico") == 404
    assert asked(f"http://{host}/{secret[:-1]}/") == 404
    assert asked(f"http://{host}/{secret}/../x") == 404
    assert asked(f"http://{host}/{secret}/facts") == 404
    assert asked(url, Host="evil.example") == 403
    assert asked(url, Host=f"evil.example:{host.partition(':')[2]}") == 403
    assert asked(url, Host=host.replace("127.0.0.1", "localhost")) == 200
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert asked(url, method) == 501


def test_events_tell_how_it_stands_until_the_end_and_then_nobody_answers(
    running: tuple[JobState, threading.Semaphore, str],
) -> None:
    job, may, url = running
    states = states_of(url)
    first = next(states)
    assert (first["status"], first["ledger"]["pending"]) == ("running", 1)
    may.release()
    while next(states)["ledger"]["completed"] < 1:
        pass
    for _ in range(5):
        may.release()
    *_, last = states
    assert job.wait(SECONDS)
    assert (last["status"], last["ledger"]["posted"], last["ledger"]["pending"]) == ("completed", 6, 0)
    with pytest.raises(urllib.error.URLError):
        asked(url)


def test_a_job_ends_also_while_nobody_looks_and_a_second_one_is_shown_anew(capsys: pytest.CaptureFixture[str]) -> None:
    may = threading.Semaphore(2)
    with Flow("twice", plugins=[Live()]) as flow:
        flow.add_routine(Steps(may=may), "steps")
        for _ in range(2):
            assert flow.run("steps", {"n": 0}).status == "completed"
    assert len(set(re.findall(r"http://\S+", capsys.readouterr().err))) == 2


@pytest.mark.once
def test_the_page_follows_its_job_and_keeps_what_was_typed(
    chromium: Browser, running: tuple[JobState, threading.Semaphore, str]
) -> None:
    job, may, url = running
    page = chromium.page(offline=False)
    page.open(url)
    assert page.run("document.getElementById('status').innerText") == "running"
    page.press("/", "/")
    page.type("steps")
    completed = "document.querySelector('[data-ledger=completed]').textContent"
    may.release()
    page.wait(f"{completed} === '1'")
    for _ in range(5):
        may.release()
    page.wait("document.getElementById('status').innerText === 'completed'")
    assert job.wait(SECONDS)
    assert page.run("document.getElementById('search').value") == "steps"
    assert page.run("document.activeElement.id") == "search"
    assert page.run("document.getElementById('found').innerText") == "6 of 6"
    assert [each for each in page.requests if each != f"{url}events"] == []
    assert page.console == []
