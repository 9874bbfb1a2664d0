"""The strategy `asyncio` for long: 50,000 requests of a real server on this machine, 500 under way at a time."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from routilux_core import Flow, Routine, event, slot

REQUESTS = 50_000
AT_A_TIME = 500
PARTS = 10  # after each of which is looked at what is there


class Pages(Routine, stateless=True):
    wanted = event("n")

    @slot
    async def ask(self, first: int, count: int) -> None:
        for n in range(first, first + count):
            await self.emit_async("wanted", n=n)


class Fetch(Routine, stateless=True):
    port: int
    fetched = event("n", "text")

    @slot
    async def n(self, n: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(f"GET /{n} HTTP/1.0\r\n\r\n".encode())
            answer = await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()
        self.emit("fetched", n=n, text=answer.partition(b"\r\n\r\n")[2].decode())


class Keep(Routine):
    total: int = 0
    seen: int = 0

    @slot
    async def add(self, n: int, text: str) -> None:
        assert text == f"/{n}"
        self.total += n
        self.seen += 1


class Server:
    """An HTTP server in a thread of its own."""

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.served = 0
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Server:
        self.thread.start()
        assert self.ready.wait(20)
        return self

    def __exit__(self, *error: object) -> None:
        self.loop.call_soon_threadsafe(self.over.set)
        self.thread.join(20)

    async def _serve(self) -> None:
        self.loop, self.over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0, backlog=AT_A_TIME)
        self.port = server.sockets[0].getsockname()[1]
        self.ready.set()
        async with server:
            await self.over.wait()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readline()).split()[1]
        await asyncio.sleep(0.005)
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + path)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        self.served += 1


def resident_kb() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def sockets() -> int:
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # that of the listing itself
            found += os.readlink(f"/proc/self/fd/{fd}").startswith("socket")
    return found


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(3600)
def test_nothing_is_lost_of_50000_requests_and_the_memory_stays_flat() -> None:
    before, memory = sockets(), []
    with Server() as server, Flow(execution_strategy="asyncio", max_workers=AT_A_TIME, max_pending=200) as flow:
        keep = Keep()
        flow.add_routine(Pages(), "pages")
        flow.add_routine(Fetch(port=server.port), "fetch")
        flow.add_routine(keep, "keep")
        flow.connect("pages", "wanted", "fetch", "n")
        flow.connect("fetch", "fetched", "keep", "add")
        part = REQUESTS // PARTS
        for n in range(PARTS):
            job = flow.run("pages", {"first": n * part, "count": part})
            job.raise_for_errors()
            assert job.ledger.balanced
            memory.append(resident_kb())
        assert (keep.seen, keep.total, server.served) == (REQUESTS, REQUESTS * (REQUESTS - 1) // 2, REQUESTS)
    print("resident KB after each part:", memory)
    assert sockets() == before
    assert max(memory[3:]) - memory[2] < 4_000, memory
