"""The live page follows the daemon: changes are shown at once, in every tab, and what fails with its reason."""

import re
import time
from typing import TYPE_CHECKING

import pytest
from browsing import Visits, badge, live, region, row
from livepage import REASON, Stage

from discovery.testing import eventually_sync, within

if TYPE_CHECKING:
    from playwright.sync_api import Locator

pytestmark = pytest.mark.browser

TIMES = 10
"""A bar is a figure of an idle machine; a test fails at ten times the bar."""
PUT_SECONDS = 0.3
TABS = 10
WATCH = """text => {
    window.shown = new Promise(resolve => {
        const look = () => document.body.textContent.includes(text) && resolve(Date.now() / 1000)
        new MutationObserver(look).observe(document.body, {childList: true, subtree: true, characterData: true})
        look()
    })
}"""
"""Notes the time of the clock at which a text appears anywhere on the page."""
FLASHES = """row => {
    window.flashes = 0
    const count = () => { window.flashes += row.hasAttribute('data-flash') }
    new MutationObserver(count).observe(row, {attributes: true, attributeFilter: ['data-flash']})
}"""
"""Counts from now on how often a row lights up."""


def is_red(element: "Locator", of: str = "color") -> bool:
    """Whether an element's colour, or another of its properties, is red rather than anything else."""
    colour = element.evaluate("(it, of) => getComputedStyle(it)[of]", of)
    red, green, blue = map(int, re.findall(r"\d+", colour)[:3])
    return red > max(green, blue) + 40


def test_a_put_appears_within_300_ms(visit: Visits, stage: Stage) -> None:
    page = live(visit(stage.url))
    took = []
    for number in range(5):
        page.evaluate(WATCH, f"fresh-{number}")
        begun = time.time()
        stage.put(f"web/fresh-{number}")
        shown = page.evaluate("() => window.shown")
        took.append(shown - begun)
        row(page, "Services", f"fresh-{number}").wait_for()
    print(f"put to shown, in milliseconds: {', '.join(f'{1000 * each:.0f}' for each in sorted(took))} (bar 300)")
    assert sorted(took)[len(took) // 2] < TIMES * within(PUT_SECONDS)


def test_a_failing_consumer_turns_red_with_its_reason_and_recovers(visit: Visits, stage: Stage) -> None:
    page = live(visit(stage.url))
    archive = row(page, "Consumers", "archive")
    badge(archive, "ok").wait_for()
    stage.fail()
    try:
        stage.put("web/unwelcome")
        badge(archive, "failing").wait_for()
        archive.get_by_text(REASON).wait_for()
        eventually_sync(lambda: is_red(badge(archive, "failing")))
        region(page, "Overview").get_by_text(REASON).wait_for()
        box = region(page, "Flow").locator("g").filter(has_text="archive").locator("rect")
        eventually_sync(lambda: is_red(box, "stroke"))
    finally:
        stage.recover()
    badge(archive, "ok").wait_for()
    region(page, "Overview").get_by_text(REASON).wait_for(state="detached")


def test_a_rejected_record_is_found_by_search(visit: Visits, stage: Stage) -> None:
    stage.put("db/wrong-port", '{"host": "10.0.0.1", "port": 99999}')
    page = live(visit(stage.url))
    row(page, "Rejected records", "db/wrong-port").wait_for()
    page.get_by_role("searchbox", name="Search").fill("wrong-port")
    row(page, "Rejected records", "db/broken").wait_for(state="detached")
    row(page, "Rejected records", "db/wrong-port").get_by_text("port").first.wait_for()
    assert row(page, "Services", "api/a1").count() == 0
    page.wait_for_url(re.compile(r"\?(.*&)?q=wrong-port"))
    page.reload()
    row(page, "Rejected records", "db/wrong-port").wait_for()
    assert page.get_by_role("searchbox", name="Search").input_value() == "wrong-port"
    assert row(page, "Rejected records", "db/broken").count() == 0


def test_the_timeline_shows_the_delay_of_each_consumer(visit: Visits, stage: Stage) -> None:
    page = live(visit(stage.url))
    stage.put("web/timed")
    change = row(page, "Timeline", "web/timed")
    change.get_by_text(re.compile(r"\d ms")).nth(1).wait_for()
    told = change.inner_text()
    for consumer in ("edge", "archive"):
        assert re.search(rf"{consumer}\s+\d+(\.\d+)? ms", told), told


def test_a_provider_tells_why_a_candidate_is_not_registered(visit: Visits, stage: Stage) -> None:
    page = live(visit(stage.url))
    row(page, "Providers", "web/refused").get_by_text("says failing").first.wait_for()
    row(page, "Providers", "web/passing").get_by_text("yes", exact=True).wait_for()
    region(page, "Providers").get_by_text("it publishes no port").wait_for()
    stage.found(("passing", 1001, "passing"), ("refused", 1002, "passing"), idle="it publishes no port")
    row(page, "Providers", "web/refused").get_by_text("yes", exact=True).wait_for()
    row(page, "Services", "refused").wait_for()


def test_a_backend_that_haproxy_finds_down_is_shown(visit: Visits, stage: Stage) -> None:
    stage.put("api/silent", "127.0.0.1:1")
    page = live(visit(stage.url))
    badge(row(page, "Services", "silent"), "down").wait_for()
    page.get_by_role("combobox", name="Health").select_option("down")
    row(page, "Services", "silent").wait_for()
    row(page, "Services", "a1").wait_for(state="detached")


def test_a_row_in_which_only_time_passes_does_not_light_up(visit: Visits, stage: Stage) -> None:
    stage.put("api/dark", "127.0.0.1:1")
    page = live(visit(f"{stage.url}?q=api/dark"))
    dark = row(page, "Services", "dark")
    dark.get_by_text("Connection refused").wait_for()
    eventually_sync(lambda: dark.get_attribute("data-flash") is None, "the change to have been shown", timeout=20)
    dark.evaluate(FLASHES)
    for _ in range(2):
        reason = dark.locator(".why").inner_text()
        eventually_sync(lambda: dark.locator(".why").inner_text() != reason, "time to pass", timeout=30)  # noqa: B023
    assert page.evaluate("window.flashes") == 0, dark.inner_text()
    stage.put("api/dark", '{"host": "127.0.0.1", "port": 1, "weight": 3}')
    eventually_sync(lambda: page.evaluate("window.flashes") > 0, "another weight to light up", timeout=20)


def test_ten_tabs_of_one_browser_stay_live(visit: Visits, stage: Stage) -> None:
    visitor = visit.visitor(stage.url)
    pages = [visitor.new_page() for _ in range(TABS)]
    for page in pages:
        page.goto(stage.url)
    for page in pages:
        live(page)
    eventually_sync(lambda: stage.connections == 1, "one stream for all tabs", timeout=30)
    for number in range(2):
        stage.put(f"web/everywhere-{number}")
        for page in pages:
            row(page, "Services", f"everywhere-{number}").wait_for()
    pages[0].close()
    stage.put("web/afterwards")
    for page in pages[1:]:
        row(page, "Services", "afterwards").wait_for()
    eventually_sync(lambda: stage.connections == 1, "still one stream", timeout=30)
    visitor.close()
    eventually_sync(lambda: stage.connections == 0, "no stream without tabs", timeout=30)


def test_a_change_takes_neither_the_focus_nor_an_open_part_from_the_reader(visit: Visits, stage: Stage) -> None:
    page = live(visit(stage.url))
    region(page, "Flow").get_by_text("The flow as text").click()
    link = row(page, "Services", "a1").get_by_role("link")
    link.focus()
    stage.put("web/disturbing")
    row(page, "Services", "disturbing").wait_for()
    page.get_by_text(re.compile("^Service web: ")).wait_for()
    assert link.evaluate("it => it === document.activeElement")
