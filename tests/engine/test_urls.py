"""200 URLs of a real server: what a plain routine costs, the hint that says so, and what its remedy brings."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from routilux_core import Flow, JobState, Routine, event, per_worker, slot

MakeFlow = Callable[..., Flow]
URLS, WORKERS = 200, 20
SHORT, LONG = 0.005, 0.05  # seconds that the server takes for each answer; at the other end of a network it is more
SECONDS = 60.0


class Answers(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"  # a client may ask again on the same connection
    wbufsize = -1  # head and body in one packet: else each answer waits 40 ms for an acknowledgement

    def do_GET(self) -> None:
        time.sleep(self.server.latency)
        body = f"answer to {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 2 * WORKERS

    def __init__(self, latency: float) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.latency = latency
        self.connections = 0

    def process_request(self, *args: object) -> None:
        self.connections += 1
        super().process_request(*args)


@pytest.fixture
def server(latency: float) -> Iterator[Server]:
    server = Server(latency)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class Client:
    """One connection to the server that is kept; it knows who made it, used it and closed it."""

    made: list[Client]
    port: int

    def __init__(self) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        self.maker = threading.get_ident()
        self.users: set[int] = set()
        self.closed = 0
        self.made.append(self)

    def get(self, path: str) -> str:
        assert not self.closed
        self.users.add(threading.get_ident())
        self.connection.request("GET", path)
        return self.connection.getresponse().read().decode()

    def close(self) -> None:
        self.closed += 1
        self.connection.close()


@pytest.fixture
def made(server: Server) -> Iterator[list[Client]]:
    """The clients that are made for this test's server."""
    Client.made, Client.port = [], server.server_port
    yield Client.made
    del Client.made, Client.port


class Urls(Routine):
    url = event("path")

    def __call__(self) -> None:
        for number in range(URLS):
            self.emit("url", path=f"/{number}")


class Plain(Routine):
    """What one writes first: a client of its own, and not a word about state."""

    fetched = event("text")

    def __init__(self) -> None:
        super().__init__()
        self.client: Client | None = None

    @slot
    def path(self, path: str) -> None:
        if self.client is None:
            self.client = Client()
        self.emit("fetched", text=self.client.get(path))


class Remedied(Routine, stateless=True):
    """The same with the remedy that the hint names."""

    fetched = event("text")
    client = per_worker(Client)

    @slot
    def path(self, path: str) -> None:
        self.emit("fetched", text=self.client.get(path))


def fetch_all(flow: Flow, routine: Routine) -> tuple[JobState, float]:
    flow.add_routine(Urls(), "urls")
    flow.add_routine(routine, "fetch")
    flow.connect("urls", "url", "fetch", "path")
    flow.add_output("fetch", "fetched", "texts")
    began = time.perf_counter()
    job = flow.execute("urls")
    assert job.wait(SECONDS), job.explain()
    taken = time.perf_counter() - began
    job.raise_for_errors()
    assert sorted(each["text"] for each in job.outputs["texts"]) == sorted(f"answer to /{n}" for n in range(URLS))
    return job, taken


@pytest.mark.parametrize(
    ("latency", "times"),
    [pytest.param(SHORT, 4, id="short"), pytest.param(LONG, 10, marks=pytest.mark.soak, id="long")],
)
def test_200_urls_get_the_hint_and_its_remedy_takes_a_tenth_of_the_time(
    make_flow: MakeFlow, server: Server, made: list[Client], times: int
) -> None:
    plain, remedied = (make_flow(execution_strategy="concurrent", max_workers=WORKERS) for _ in range(2))
    slow, slow_seconds = fetch_all(plain, Plain())
    (hint,) = [line for line in slow.explain().splitlines() if line.startswith("hint")]
    assert f"'fetch': {URLS} activations one at a time" in hint
    assert "stateless=True" in hint
    assert (len(made), server.connections) == (1, 1)
    made.pop().close()
    fast, fast_seconds = fetch_all(remedied, Remedied())
    assert "hint" not in fast.explain()
    print(f"plain {slow_seconds:.3f} s, remedied {fast_seconds:.3f} s: {slow_seconds / fast_seconds:.1f} times")
    assert fast_seconds < slow_seconds / times  # with a short wait, a busy machine's threads count for more
    assert 1 < len(made) <= WORKERS
    assert server.connections == 1 + len(made), "a client was made and not kept"
    remedied.shutdown()
    assert [client.closed for client in made] == [1] * len(made)
    assert all(client.users == {client.maker} for client in made)
