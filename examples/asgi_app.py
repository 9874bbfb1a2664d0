"""A web service over a flow, for any ASGI server: `uvicorn --app-dir examples asgi_app:app`, then GET /some/words.

Each request awaits a job of its own; all of them share one flow, its event loop and its clients. Needs nothing but
the package; with FastAPI, Starlette or any other framework the handler of a request is the same `await flow.arun(...)`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from routilux_core import Flow, Routine, event, slot

SECONDS = 0.05  # that a lookup takes
Message = dict[str, Any]


class Split(Routine, stateless=True):
    word = event("word")

    @slot
    async def path(self, path: str) -> None:
        for word in path.strip("/").split("/"):
            self.emit("word", word=word)


class Lookup(Routine, stateless=True):
    """Stands for what asks another service."""

    found = event("word", "letters")

    @slot
    async def word(self, word: str) -> None:
        await asyncio.sleep(SECONDS)
        self.emit("found", word=word, letters=len(word))


def build() -> Flow:
    flow = Flow("words", execution_strategy="asyncio", max_workers=1000)
    flow.add_routine(Split(), "split")
    flow.add_routine(Lookup(), "lookup")
    flow.connect("split", "word", "lookup", "word")
    flow.add_output("lookup", "found", "found")
    return flow


class App:
    """The service: it has a flow from its start to its end."""

    def __init__(self) -> None:
        self.flow = build()

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            job = await self.flow.arun("split", {"path": scope["path"]}, timeout=10.0)
            letters = {found["word"]: found["letters"] for found in job.results("found")}
            body = json.dumps(letters, sort_keys=True).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            status = 200 if job.status == "completed" else 500
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    async def _live(
        self, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        """Close the flow when the server ends."""
        await receive()
        async with self.flow:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})


app = App()
