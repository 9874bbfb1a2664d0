"""Make docs/report.png: the report of a real run of the demo, as Chromium shows it.

python docs/make_picture.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
WIDTH = 1180

sys.path.insert(0, str(CHECKOUT / "tests" / "support"))

from chromium import browser, find_browser  # noqa: E402


def main() -> None:
    path = find_browser()
    if path is None:
        sys.exit("there is no Chromium here: apt-get install chromium, or name one in ROUTILUX_CHROMIUM")
    with tempfile.TemporaryDirectory() as folder, browser(path) as started:
        report = Path(folder) / "run.html"
        demo = [sys.executable, CHECKOUT / "examples" / "concurrent_flow_demo.py", "--json", "--report", report]
        subprocess.run(demo, check=True, stdout=subprocess.DEVNULL)
        page = started.page(WIDTH, 2400)
        page.open(report)
        page.run("document.querySelectorAll('[role=tab]')[1].click()")
        graph = "[...document.querySelectorAll('section')].find((each) => each.innerText.startsWith('Graph'))"
        page.frame()
        page.resize(WIDTH, page.run(f"Math.ceil({graph}.getBoundingClientRect().bottom + 8)"))
        page.frame()
        page.picture(CHECKOUT / "docs" / "report.png")


if __name__ == "__main__":
    main()
