"""The page in a real browser, offline: it asks for nothing, says nothing on the console, and can be used."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from chromium import Browser, Page
from routilux_core import Flow, JobState

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reports")


@pytest.fixture(scope="module")
def jobs(seen: ModuleType, folder: Path) -> tuple[JobState, JobState]:
    """One job under each of two strategies, and a report of each, and of both."""
    made = []
    for name in ("sequential", "concurrent"):
        with seen.wire(Flow("seen", name, max_workers=3)) as flow:
            made.append(flow.run("numbers", {"count": 40}))
        made[-1].report(folder / f"{name}.html")
    flow.report(folder / "both.html", *made)
    return made[0], made[1]


@pytest.fixture
def page(chromium: Browser, jobs: tuple[JobState, JobState], folder: Path) -> Iterator[Page]:
    """The report of the job on threads, open; afterwards nothing may have been asked for, or said."""
    found = chromium.page()
    found.open(folder / "concurrent.html")
    yield found
    assert found.requests == []
    assert found.console == []


def view_of(page: Page) -> tuple[float, float]:
    """Return what part of the time line is shown, in microseconds."""
    page.frame()
    begins, ends = page.run("document.getElementById('timeline').dataset.view").split()
    return float(begins), float(ends)


def place_of(page: Page, element: str) -> tuple[float, float, float, float]:
    x, y, width, height = page.run(
        f"(() => {{ const box = document.querySelector({element!r}).getBoundingClientRect(); "
        "return [box.x, box.y, box.width, box.height]; })()"
    )
    return x, y, width, height


def text_of(page: Page, element: str) -> str:
    text: str = page.run(f"document.querySelector({element!r}).innerText")
    return text


def over_a_slice(page: Page) -> tuple[float, float]:
    """Move the mouse along the first lane until a slice is below it; return where."""
    x, y, width, _ = place_of(page, "#timeline")
    for step in range(200):
        at = x + 100 + step * (width - 120) / 200, y + 24 + 36 + 13
        page.mouse("mouseMoved", *at)
        if not page.run("document.getElementById('tip').hidden"):
            return at
    raise AssertionError("no slice in the first lane")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("name", ["concurrent", "both"])
def test_it_fits_and_asks_for_nothing(
    chromium: Browser, jobs: tuple[JobState, JobState], folder: Path, name: str, width: int, scheme: str
) -> None:
    page = chromium.page(width, dark=scheme == "dark")
    page.open(folder / f"{name}.html")
    page.frame()
    assert page.run("document.documentElement.scrollWidth") <= width
    colour = page.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", colour)[:3])) < 200) is (scheme == "dark")
    headings = page.run("[...document.querySelectorAll('h2')].map((each) => each.firstChild.data)")
    expected = ["Time line", "Graph", "Critical path", "Routines", "Errors", "What it says of itself", "Environment"]
    assert headings == (["Side by side"] if name == "both" else []) + expected
    assert (page.requests, page.console) == ([], [])


def test_its_ledger_and_its_table_are_the_ones_of_the_job(page: Page, jobs: tuple[JobState, JobState]) -> None:
    job = jobs[1]
    shown = page.run(
        "[...document.querySelectorAll('[data-ledger]')].map((each) => [each.dataset.ledger, each.textContent])"
    )
    assert len(shown) == 10
    for name, text in shown:
        assert int(text.replace(",", "")) == getattr(job.ledger, name)
    rows = page.run(
        "[...document.querySelectorAll('#routines tbody tr')].map((row) => "
        "Object.fromEntries([...row.cells].map((cell) => [cell.dataset.key, cell.innerText])))"
    )
    figures = job.tracker.get_all_performances()
    assert {row["routine_id"] for row in rows} == set(figures)
    for row in rows:
        for name in ("total_executions", "completed", "skipped", "retried"):
            assert int(row[name]) == figures[row["routine_id"]][name]


def test_the_mouse_over_a_slice_shows_its_activation(page: Page, jobs: tuple[JobState, JobState]) -> None:
    over_a_slice(page)
    shown = text_of(page, "#tip")
    number = re.search(r"#(\d+)", shown)
    assert number
    found = [each for each in jobs[1].get_execution_history() if each.id == int(number[1])]
    assert any(each.routine_id in shown and each.outcome in shown for each in found)
    assert {"ran", "waited", "began at", "on"} <= set(shown.split("\n")) | {"began at"}
    page.mouse("mouseMoved", 2, 2)
    assert page.run("document.getElementById('tip').hidden")


def test_a_click_selects_and_tells_causes_and_effects(page: Page) -> None:
    x, y = over_a_slice(page)
    page.click(x, y)
    assert "caused" in text_of(page, "#detail")
    page.run("document.querySelector('#detail button') && document.querySelector('#detail button').click()")
    assert "#1" in text_of(page, "#detail")


def test_it_zooms_and_moves_by_buttons_wheel_and_mouse(page: Page) -> None:
    whole = view_of(page)
    x, y, width, height = place_of(page, "#in")
    page.click(x + width / 2, y + height / 2)
    half = view_of(page)
    assert half[1] - half[0] == pytest.approx((whole[1] - whole[0]) / 2)
    x, y, width, height = place_of(page, "#timeline")
    page.mouse("mouseWheel", x + width / 2, y + 80, deltaX=0, deltaY=-200, modifiers=2)
    closer = view_of(page)
    assert closer[1] - closer[0] < half[1] - half[0]
    page.mouse("mousePressed", x + 700, y + 80, button="left", clickCount=1)
    for step in range(1, 6):
        page.mouse("mouseMoved", x + 700 - 40 * step, y + 80, button="left", buttons=1)
    page.mouse("mouseReleased", x + 500, y + 80, button="left", clickCount=1)
    moved = view_of(page)
    assert moved[0] > closer[0]
    assert moved[1] - moved[0] == pytest.approx(closer[1] - closer[0])
    page.mouse("mouseWheel", x + width / 2, y + 80, deltaX=0, deltaY=200, modifiers=0)
    assert view_of(page) == moved, "a plain wheel scrolls the page"
    x, y, width, height = place_of(page, "#all")
    page.click(x + width / 2, y + height / 2)
    assert view_of(page) == pytest.approx(whole)


def test_it_can_be_used_by_keyboard_alone(page: Page, jobs: tuple[JobState, JobState]) -> None:
    for _ in range(40):
        page.press("Tab")
        if page.run("document.activeElement.id") == "timeline":
            break
    else:
        pytest.fail("Tab does not reach the time line")
    whole = view_of(page)
    page.press("ArrowRight")
    first = text_of(page, "#said")
    assert "number 1" in first
    page.press("e")
    second = text_of(page, "#said")
    assert "squares" in second
    page.press("c")
    assert text_of(page, "#said") == first
    page.press("End")
    page.press("Enter")
    near = view_of(page)
    number = int(text_of(page, "#said").split(", number ")[1].split(",")[0])
    spent = [each.run_time * 1e6 for each in jobs[1].get_execution_history() if each.id == number]
    wide = near[1] - near[0]
    assert any(wide == pytest.approx(min(max(2, 4 * each), whole[1] - whole[0]), rel=0.1, abs=1) for each in spent)
    page.press("ArrowDown")
    page.press("0")
    assert view_of(page) == pytest.approx(whole)
    page.press("Escape")
    assert text_of(page, "#detail") == ""


def test_search_counts_and_leads_from_one_to_the_next(page: Page, jobs: tuple[JobState, JobState]) -> None:
    history = jobs[1].get_execution_history()
    page.press("/", "/")
    assert page.run("document.activeElement.id") == "search"
    page.type("skipped")
    assert text_of(page, "#found") == f"{sum(each.outcome == 'skipped' for each in history)} of {len(history)}"
    seen = []
    for _ in range(3):
        page.press("Enter", "\r")
        seen.append(text_of(page, "#said"))
    assert len(set(seen)) == 3
    assert all("skipped" in each for each in seen)
    page.run("document.getElementById('search').select()")
    page.type("#1")
    assert text_of(page, "#found") == f"1 of {len(history)}"


def test_a_node_of_the_graph_and_the_legend_search_for_a_routine(page: Page) -> None:
    page.run("document.querySelector('g.node').dispatchEvent(new MouseEvent('click'))")
    assert page.run("document.getElementById('search').value") == "numbers"
    page.run("document.querySelector('#legend button').click()")
    assert page.run("document.getElementById('search').value") == ""
    page.run("document.querySelectorAll('#legend button')[1].click()")
    assert text_of(page, "#found").startswith("40 of ")


def test_colours_themes_sorting_and_tabs_can_be_chosen(chromium: Browser, folder: Path, jobs: object) -> None:
    page = chromium.page()
    page.open(folder / "both.html")
    page.run(
        "(() => { const by = document.getElementById('colouring'); by.value = 'outcome'; "
        "by.dispatchEvent(new Event('change')); document.getElementById('waits').click(); })()"
    )
    assert text_of(page, "#legend").split() == ["completed", "failed", "skipped", "retried"]
    before = page.run("getComputedStyle(document.body).backgroundColor")
    page.run("document.getElementById('theme').click()")
    assert page.run("getComputedStyle(document.body).backgroundColor") != before
    first = page.run("document.querySelector('#routines tbody td').innerText")
    page.run("[...document.querySelectorAll('#routines th button')].find((e) => e.innerText === 'routine').click()")
    names = page.run("[...document.querySelectorAll('#routines tbody tr')].map((each) => each.cells[0].innerText)")
    assert names == sorted(names)
    assert first in names
    assert "1 job" not in text_of(page, "header")
    page.run("document.querySelectorAll('[role=tab]')[1].click()")
    assert "3 workers" in page.run("document.body.innerText")
    page.frame()
    assert (page.requests, page.console) == ([], [])


def test_print_is_light_and_shows_all(chromium: Browser, folder: Path, jobs: object) -> None:
    page = chromium.page(dark=True)
    page.open(folder / "concurrent.html")
    pdf = page.call("Page.printToPDF", printBackground=True)["data"]
    assert len(pdf) > 20_000
    page.look("dark", "print")
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.run("[...document.querySelectorAll('details')].every((each) => each.open)")
    assert page.run("getComputedStyle(document.querySelector('.tools')).display") == "none"
    page.resize(700)
    assert page.run("document.documentElement.scrollWidth") <= 700
    x, _, width, _ = place_of(page, ".graph svg")
    assert x + width <= 700, "the graph is not cut"
    x, _, width, _ = place_of(page, "#routines")
    assert x + width <= 700, "nor is the table"
    page.run("dispatchEvent(new Event('afterprint'))")
    assert page.run("document.documentElement.dataset.theme") is None
    assert (page.requests, page.console) == ([], [])


def test_five_hundred_hostile_names_are_text(
    chromium: Browser, seen: ModuleType, folder: Path, hostile_names: list[str]
) -> None:
    with Flow(hostile_names[1], error_handler="continue") as flow:
        for name in hostile_names:
            flow.add_routine(seen.Refuses(text=name), name)
        for name in hostile_names[1:]:
            flow.connect(hostile_names[0], "out", name, "input")
        job = flow.run(hostile_names[0])
    job.report(folder / "hostile.html")
    for width in (400, 1600):
        page = chromium.page(width)
        page.open(folder / "hostile.html")
        page.frame()
        assert page.run("document.documentElement.scrollWidth") <= width
        assert page.run("document.querySelectorAll('script').length") == 3
        assert page.run("document.querySelectorAll('img, iframe, object, embed, link, a, b[onload], form').length") == 0
        assert page.run("document.querySelectorAll('#routines tbody tr').length") == 500
        shown = page.run("document.body.textContent")
        assert "<script>alert(1)</script>" in shown
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
        over_a_slice(page)
        assert (page.requests, page.console) == ([], [])
    opened = [event for event in chromium.events if event["method"] == "Page.javascriptDialogOpening"]
    assert opened == []


def best(measure: Callable[[], float], enough: float) -> float:
    """Return the best of three measurements, or the first that is good enough: other work may come in between."""
    found = measure()
    for _ in range(2):
        if found > enough:
            found = min(found, measure())
    return found


def test_a_hundred_thousand_activations_open_and_move_quickly(
    chromium: Browser, seen: ModuleType, folder: Path
) -> None:
    with Flow("many", "concurrent", max_workers=4, history_size=200_000) as flow:
        flow.add_routine(seen.Numbers(), "numbers")
        flow.add_routine(seen.Numbers(), "more")
        flow.add_routine(seen.Counts(), "counts")
        flow.connect("numbers", "number", "more", "start", param_mapping={"n": "count"})
        flow.connect("more", "number", "counts", "add")
        job = flow.run("numbers", {"count": 446})
    job.report(folder / "many.html")
    page = chromium.page()
    opened = best(lambda: page.open(folder / "many.html"), 1500)
    page.run("document.getElementById('timeline').focus()")
    moving = """new Promise((done) => {
        const target = document.getElementById("timeline"), times = [];
        let last = performance.now(), left = 40;
        const press = (key, shiftKey) => target.dispatchEvent(new KeyboardEvent("keydown", {key, shiftKey}));
        press("+"); press("+");
        const next = () => {
            const now = performance.now(); times.push(now - last); last = now;
            if (!left--) { times.sort((a, b) => a - b); done(times[20]); return; }
            press(left % 10 < 5 ? "ArrowRight" : "ArrowLeft", true);
            requestAnimationFrame(next);
        };
        requestAnimationFrame(next);
    })"""
    frame = best(lambda: page.run(moving), 1000 / 30)
    print(f"{job.ledger.posted} activations open in {opened} ms, and move at {1000 / frame:.0f} frames a second")
    assert opened < 1500
    assert frame <= 1000 / 30 * 1.5  # on a busy machine; 30 frames a second is what it has to reach on a quiet one
    assert (page.requests, page.console) == ([], [])
