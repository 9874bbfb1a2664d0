"""Look at a built site in a real browser: `look_at_site.py SITE [PICTURES]`; without a browser it only says so.

Every page is opened once, and looked at with 400 and 1,600 pixels, light and dark. It may not be wider than the window,
ask other sites for anything, or write to the console. The search has to find what people look for. PICTURES gets a
picture of each.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from threading import Thread
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from chromium import Page, browser, find_browser

WIDTHS = (400, 1600)
SCHEMES = ("light", "dark")
WORDS = ("retry", "rate", "dict")
TOO_WIDE = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
FOUND = "document.querySelectorAll('#search-results li').length"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...


@contextmanager
def served(site: Path) -> Iterator[str]:
    """Serve a folder on this machine alone: search needs pages that come from a server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def open_page(page: Page, url: str) -> None:
    page.call("Page.navigate", url=url)
    page.wait(f"location.href === {url!r} && document.readyState === 'complete'")
    page.frame()


def look(page: Page, address: str, site: Path, pictures: Path | None) -> list[str]:
    """Return which pages of a site are wider than their window. To open a page costs more than all looks at it."""
    wrong = []
    for path in sorted(site.rglob("*.html")):
        said = path.relative_to(site).as_posix()
        open_page(page, f"{address}/{said}")
        for width, scheme in product(WIDTHS, SCHEMES):
            page.resize(width)
            page.look(scheme)
            page.frame()
            if page.run(TOO_WIDE):
                wrong.append(f"{said} is wider than the window, {width}-{scheme}")
            if pictures is not None:
                page.picture(pictures / f"{said.replace('/', '-')}-{width}-{scheme}.png")
    return wrong


def search(page: Page, address: str) -> list[str]:
    """Return what the search does not find."""
    wrong = []
    for word in WORDS:
        open_page(page, f"{address}/search.html?q={word}")
        count = page.wait(FOUND)
        print(f"{word!r}: {count} pages found")
        if not count:
            wrong.append(f"search finds nothing for {word!r}")
    return wrong


def main(site: Path, pictures: Path | None) -> int:
    program = find_browser()
    if program is None:
        print("no Chromium is installed here: nobody has looked at the pages")
        return 0
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
    wrong = []
    with served(site) as address, browser(program) as made:
        page = made.page(offline=False)
        wrong += look(page, address, site, pictures)
        wrong += [f"asks for {url}" for url in page.requests if not url.startswith(address)]
        wrong += [f"console: {said}" for said in page.console]
        wrong += search(made.page(1600, 1000, offline=False), address)
    print(*dict.fromkeys(wrong), sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None))
