"""A thousand pages of a slow web server, 200 at a time, in `async def` handlers. It needs the standard library only.

python examples/async_fetch.py [pages]
"""

import asyncio
import sys
import time

from routilux_core import Flow, Routine, event, field, slot

AT_A_TIME = 200
SECONDS = 0.05  # that the server takes for a page


class Pages(Routine):
    wanted = event("path")

    async def __call__(self, count: int) -> None:
        for number in range(count):
            await self.emit_async("wanted", path=f"/page/{number}")  # waits while too many wait


class Fetch(Routine, stateless=True, timeout=10.0):
    """Asks the server; its calls overlap, since it keeps nothing between them."""

    port: int
    fetched = event("path", "text")

    @slot
    async def get(self, path: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            answer = await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()
        self.emit("fetched", path=path, text=answer.partition(b"\r\n\r\n")[2].decode())


class Count(Routine):
    """Plain, and with state: one call at a time, in a thread beside the event loop."""

    longest: int = 0
    texts: list[str] = field(factory=list)
    counted = event("path", "letters")

    @slot
    def add(self, path: str, text: str) -> None:
        self.texts.append(text)
        self.longest = max(self.longest, len(text))
        self.emit("counted", path=path, letters=len(text))


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The server: it answers each request after a while."""
    path = (await reader.readline()).split()[1].decode()
    await asyncio.sleep(SECONDS)
    writer.write(f"HTTP/1.0 200 OK\r\n\r\nThis is {path}.".encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def main(pages: int) -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=AT_A_TIME)
    port = server.sockets[0].getsockname()[1]
    async with server, Flow(execution_strategy="asyncio", max_workers=AT_A_TIME) as flow:
        flow.add_routine(Pages(), "pages")
        flow.add_routine(Fetch(port=port), "fetch")
        flow.add_routine(Count(), "count")
        flow.connect("pages", "wanted", "fetch", "get")
        flow.connect("fetch", "fetched", "count", "add")
        flow.add_output("count", "counted")

        began = time.perf_counter()
        job = flow.execute("pages", {"count": pages})
        async for _, counted in job.stream("count.counted"):
            if counted["path"].endswith("00"):
                print(f"{counted['path']}: {counted['letters']} letters")
        job.raise_for_errors()
        took = time.perf_counter() - began
    print(f"{len(job.results('count.counted'))} pages in {took:.1f} s, {pages * SECONDS:.1f} s one after the other")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
