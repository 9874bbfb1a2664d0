"""The page of a job that still runs, served on this machine alone, and only until the job has ended."""

from __future__ import annotations

import json
import secrets
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from hmac import compare_digest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic

from routilux_core._report.facts import facts_of
from routilux_core._report.page import deflated, live_page
from routilux_core._text.printable import printable
from routilux_core.hookspecs import hookimpl
from routilux_core.job import JobState

EVERY_S = 1.0
LAST_WORDS_S = 2.0  # that a page gets to take the end of a job in
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Live:
    """A plugin of one flow: serves its job, and says where; of jobs that run at the same time the first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server: LiveServer | None = None

    @hookimpl
    def routilux_job_started(self, job: JobState) -> None:
        with self._lock:
            if self._server is not None:
                return
            self._server = server = LiveServer(job)
        if sys.stderr is not None:
            sys.stderr.write(f"{printable(job.job_id)} is shown, while it runs, at {server.url}\n")

    @hookimpl
    def routilux_job_finished(self, job: JobState) -> None:
        with self._lock:
            server = self._server
            if server is None or server.job is not job:
                return
            self._server = None
        server.end()


class LiveServer(ThreadingHTTPServer):
    """Serves a page under a path that nobody can guess, and the state of its job as events, once in a second."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, job: JobState) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.job = job
        self.over = threading.Event()
        self.secret = secrets.token_urlsafe(18)
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}
        self._lock = threading.Lock()
        self._state, self._read_at = "", 0.0
        self._listeners = 0
        self._none_left = threading.Condition()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), name="routilux-live", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.server_port}/{self.secret}/"

    def page(self) -> str:
        """Return the page, with the state as it is now."""
        facts, rows = facts_of([self.job], self.title)
        return live_page(self.title, facts, rows)

    @property
    def title(self) -> str:
        """What the page is called."""
        return f"{self.job.job_id} of {self.job.flow_id}"

    def states(self) -> Iterator[str]:
        """Yield the state of the job, again and again, and at last that of its end."""
        with self._none_left:
            self._listeners += 1
        try:
            while not self.over.wait(EVERY_S):
                yield self._recent()
            yield self._recent(0.0)
        finally:
            with self._none_left:
                self._listeners -= 1
                self._none_left.notify_all()

    def _recent(self, age: float = EVERY_S / 2) -> str:
        """Return a state that is not older than that: pages that look at the same time share one."""
        with self._lock:
            if not self._state or monotonic() - self._read_at > age:
                facts, rows = facts_of([self.job], self.title)
                self._state = json.dumps({"facts": deflated(facts), "rows": rows})
                self._read_at = monotonic()
            return self._state

    def end(self) -> None:
        """Let pages have the end of the job, and stop."""
        self.over.set()
        with self._none_left:
            self._none_left.wait_for(lambda: not self._listeners, LAST_WORDS_S)
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Answer(BaseHTTPRequestHandler):
    """Answers two addresses, to who asks this machine by its own name: another page could be led here by another."""

    server: LiveServer

    def do_GET(self) -> None:
        if self.headers.get("Host") not in self.server.hosts:
            self.send_error(403, "this server answers to 127.0.0.1 alone")
            return
        _, secret, *rest = [*self.path.split("/"), ""]
        if not compare_digest(secret.encode(), self.server.secret.encode()) or rest[:1] not in ([""], ["events"]):
            self.send_error(404)
        elif rest[0] == "events":
            self._stream()
        else:
            self._send("text/html; charset=utf-8", self.server.page().encode())

    def _send(self, kind: str, content: bytes | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if content is not None:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content or b"")

    def _stream(self) -> None:
        self._send("text/event-stream; charset=utf-8", None)
        with suppress(ConnectionError, TimeoutError):  # nobody looks any more
            for state in self.server.states():
                self.wfile.write(f"data: {state}\n\n".encode())
                self.wfile.flush()
            self.wfile.write(b"event: end\ndata: end\n\n")

    def log_message(self, *_: object) -> None:
        """Write nothing: standard error is the program's."""
