"""The report opened in a real browser, as a reader opens it: from the disk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import browser as driver
import pytest
from browser import Browser

from diffdpo.benchmarks.compare import compare
from diffdpo.benchmarks.report.page import write_report
from diffdpo.benchmarks.results import BenchRun

pytestmark = pytest.mark.skipif(driver.find() is None, reason="no Chromium on this machine")

HERO, CARD = "#slider", ".wipe"


@pytest.fixture(scope="module")
def report(before: BenchRun, after: BenchRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = compare(before, after, labeled_by=["bright"], resamples=200)
    return write_report(tmp_path_factory.mktemp("report"), found, before, after)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    opened = Browser(driver.find() or "")
    yield opened
    opened.close()


@pytest.fixture
def page(browser: Browser, report: Path) -> Browser:
    browser.console.clear()
    browser.requests.clear()
    browser.show(width=1100)
    browser.open(report)
    return browser


def covered(page: Browser, slider: str) -> float:
    """Percent of the image after that the one before covers, as it is painted."""
    inset = page.ask(f"getComputedStyle(document.querySelector('{slider} .over')).clipPath")
    match = re.fullmatch(r"inset\(0px ([\d.]+)% 0px 0px\)", inset)
    assert match, inset
    return 100 - float(match[1])


def box(page: Browser, selector: str) -> tuple[float, float, float]:
    """Left and width in pixels, and the height of the middle, once it is scrolled into view."""
    page.ask(f"document.querySelector('{selector}').scrollIntoView({{behavior: 'instant', block: 'center'}})")
    rectangle = f"document.querySelector('{selector}').getBoundingClientRect().toJSON()"
    found = page.ask(rectangle)
    return found["left"], found["width"], found["top"] + found["height"] / 2


def test_the_tables_are_there_and_nothing_is_asked_of_a_network(page: Browser, report: Path) -> None:
    heads = page.ask("[...document.querySelectorAll('table.results tbody th')].map(head => head.innerText)")
    assert any(head.startswith("all parts (exact)") for head in heads)
    assert any(head.startswith("bright\nchose the training pairs") for head in heads)
    assert any(head.startswith("JPEG size") for head in heads)
    assert page.ask("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert [url for url in page.requests if not url.startswith("data:")] == [report.resolve().as_uri()]
    assert page.console == []


@pytest.mark.parametrize("slider", [HERO, CARD])
def test_a_slider_moves_by_the_keyboard(page: Browser, slider: str) -> None:
    assert covered(page, slider) == 50
    page.ask(f"document.querySelector('{slider} input').focus()")
    page.press("ArrowRight")
    assert covered(page, slider) == 51
    page.press("Home")
    assert covered(page, slider) == 0
    page.press("End")
    assert covered(page, slider) == 100
    assert page.console == []


@pytest.mark.parametrize("slider", [HERO, CARD])
def test_a_slider_moves_by_the_mouse(page: Browser, slider: str) -> None:
    left, width, height = box(page, f"{slider} input")
    page.drag((left + width / 2, height), (left + width * 0.8, height))
    assert covered(page, slider) == pytest.approx(80, abs=4)
    left, width, height = box(page, f"{slider} .stack")
    page.drag((left + width * 0.7, height), (left + width * 0.25, height))
    assert covered(page, slider) == pytest.approx(25, abs=2)
    assert page.ask(f"document.querySelector('{slider} input').value") == "25"


def test_a_screen_reader_is_told_of_every_slider(page: Browser) -> None:
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    told = [node["name"]["value"] for node in nodes if node.get("role", {}).get("value") == "slider"]
    assert len(told) == 1 + page.ask("document.querySelectorAll('.wipe').length") > 2
    assert all(name.startswith("How much of the image before") and name.rpartition(": ")[2] for name in told)
    first = next(node for node in nodes if node.get("role", {}).get("value") == "slider")
    spoken = {entry["name"]: entry["value"]["value"] for entry in first["properties"]}
    assert spoken["valuetext"] == "50% before"
    page.press("Tab")
    assert page.ask("document.activeElement.innerText") == "Skip to the results"


def test_light_dark_and_narrow(page: Browser) -> None:
    light = page.ask("getComputedStyle(document.body).backgroundColor")
    page.show(width=1100, dark=True)
    assert page.ask("getComputedStyle(document.body).backgroundColor") != light
    page.show(width=360)
    assert page.ask("document.documentElement.scrollWidth") == 360  # wide tables scroll in themselves
    assert page.ask("document.querySelectorAll('a[download]').length") == 2
    assert page.console == []


def test_the_browser_would_tell_what_is_wrong(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text('<script>nothing()</script><img src="http://127.0.0.1:9/outside.png">')
    browser.open(tmp_path / "bad.html")
    assert "http://127.0.0.1:9/outside.png" in browser.requests
    assert any("nothing is not defined" in line for line in browser.console)


def test_a_table_can_be_downloaded(page: Browser, report: Path, tmp_path: Path) -> None:
    page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.ask("document.querySelector('a[download=\"measures.csv\"]').focus()")
    page.press("Enter")
    page.wait_for("Page.downloadProgress", state="completed")
    assert (tmp_path / "measures.csv").read_bytes() == report.with_name("measures.csv").read_bytes()
    assert page.console == []
