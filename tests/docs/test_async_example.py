"""The example with async handlers does what it says."""

from __future__ import annotations

import asyncio
import re
import runpy
import subprocess
import sys
from typing import Any

import pytest

from places import CHECKOUT


@pytest.mark.once
def test_the_example_fetches_every_page() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", CHECKOUT / "examples" / "async_fetch.py", "300"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = [line for line in done.stderr.splitlines() if "kept its event loop" not in line]  # of a busy machine
    assert (done.returncode, said) == (0, [])
    assert "/page/100: 18 letters" in done.stdout
    assert re.search(r"^300 pages in \d+\.\d s, 15\.0 s one after the other$", done.stdout, re.MULTILINE)


@pytest.mark.once
def test_the_web_service_answers_a_hundred_requests_at_a_time() -> None:
    """Served by hand, as an ASGI server would: `tox run -e example` has a real one."""
    app = runpy.run_path(str(CHECKOUT / "examples" / "asgi_app.py"))["app"]

    async def ask(n: int) -> bytes:
        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await app({"type": "http", "path": f"/ab/{'c' * n}"}, lambda: asyncio.sleep(60.0), send)
        assert sent[0]["status"] == 200
        return sent[1]["body"]

    async def main() -> None:
        asked: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        living = asyncio.create_task(app({"type": "lifespan"}, asked.get, told.put))
        await asked.put({"type": "lifespan.startup"})
        assert (await told.get())["type"] == "lifespan.startup.complete"
        answers = await asyncio.gather(*(ask(n) for n in range(3, 103)))
        assert answers == [f'{{"ab": 2, "{"c" * n}": {n}}}'.encode() for n in range(3, 103)]
        await asked.put({"type": "lifespan.shutdown"})
        assert (await told.get())["type"] == "lifespan.shutdown.complete"
        await living

    asyncio.run(main())
