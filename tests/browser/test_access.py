"""The live page is for everyone: by keyboard, by a screen reader, on a small screen, and without JavaScript."""

from typing import TYPE_CHECKING

import pytest
from browsing import NARROW, WIDE, Visits, live, region, row, violations
from livepage import MANY, Stage

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

PREPARE = """() => {
    const all = 'a[href], button, input, select, textarea, summary, [tabindex]'
    const open = it => it.tabIndex >= 0 && it.checkVisibility({visibilityProperty: true})
    const style = it => {
        const {outline, boxShadow, borderColor, backgroundColor} = getComputedStyle(it)
        return [outline, boxShadow, borderColor, backgroundColor].join()
    }
    window.found = [...document.querySelectorAll(all)].filter(open)
    window.plain = window.found.map(style)
    window.focused = () => {
        const it = document.activeElement, place = window.found.indexOf(it)
        const box = it.getBoundingClientRect()
        return {
            place, name: it.outerHTML.slice(0, 120), marked: place >= 0 && style(it) != window.plain[place],
            seen: box.bottom > 0 && box.top < innerHeight && box.width > 0,
        }
    }
    return window.found.map(it => it.outerHTML.slice(0, 120))
}"""
"""Remembers what can be operated, and how it looks without the focus."""

WINDOWS = pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])


def fits(page: "Page") -> bool:
    """Whether nothing sticks out of the window sideways."""
    return bool(page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"))


@WINDOWS
def test_axe_finds_nothing_wrong_with_10_000_backends(
    viewport: dict[str, int], visit: Visits, large: Stage, axe: str
) -> None:
    page = live(visit(large.url, viewport=viewport))
    region(page, "Services").get_by_text(f"{MANY + 3} backends").wait_for()
    assert violations(page, axe) == []
    assert fits(page)


@WINDOWS
def test_everything_is_reached_by_keyboard_and_shows_the_focus(
    viewport: dict[str, int], visit: Visits, stage: Stage
) -> None:
    reach_everything(live(visit(stage.url, viewport=viewport)))


def test_the_pages_of_10_000_backends_are_reached_by_keyboard(visit: Visits, large: Stage) -> None:
    page = live(visit(f"{large.url}?page=50"))
    pages = page.get_by_role("navigation", name="Pages of services")
    assert reach_everything(page) > pages.get_by_role("link").count() > 6
    pages.get_by_role("link", name="Next").focus()
    page.keyboard.press("Enter")
    pages.locator("[aria-current=page]").get_by_text("51").wait_for()


def reach_everything(page: "Page") -> int:
    """Press the tabulator until everything that can be operated has had the focus; return how much that is."""
    names = page.evaluate(PREPARE)
    reached = []
    for _ in names:
        page.keyboard.press("Tab")
        at = page.evaluate("() => window.focused()")
        assert at["place"] >= 0, at["name"]
        assert at["marked"], f"the focus is not seen: {at['name']}"
        assert at["seen"], f"it is focused outside the window: {at['name']}"
        reached.append(at["place"])
    assert [names[place] for place in range(len(names)) if place not in reached] == []
    assert reached == sorted(reached), "in the order of the page"
    return len(names)


def test_the_first_tab_leads_past_the_header(visit: Visits, stage: Stage) -> None:
    page = live(visit(stage.url))
    page.keyboard.press("Tab")
    page.get_by_role("link", name="Skip to the content").wait_for()
    page.keyboard.press("Enter")
    assert page.get_by_role("main").evaluate("it => it === document.activeElement")
    page.keyboard.press("Tab")
    assert page.get_by_role("main").evaluate(
        "it => it.contains(document.activeElement) && it !== document.activeElement"
    )


def test_filters_and_parts_are_operated_by_keyboard_alone(visit: Visits, stage: Stage) -> None:
    page = live(visit(stage.url))
    page.get_by_role("searchbox", name="Search").focus()
    page.keyboard.type("api/a2")
    row(page, "Services", "a1").wait_for(state="detached")
    row(page, "Services", "a2").wait_for()
    page.get_by_role("link", name="Clear").focus()
    page.keyboard.press("Enter")
    row(page, "Services", "a1").wait_for()
    text = region(page, "Flow").get_by_role("group").get_by_text("The flow as text")
    region(page, "Flow").locator("summary").focus()
    page.keyboard.press("Enter")
    text.wait_for()
    region(page, "Flow").get_by_text("Consumer edge:").wait_for()


def test_the_page_is_read_without_javascript(visit: Visits, stage: Stage) -> None:
    page = visit(stage.url, java_script_enabled=False)
    row(page, "Services", "a1").wait_for()
    row(page, "Consumers", "edge").wait_for()
    row(page, "Rejected records", "db/broken").wait_for()
    row(page, "Providers", "web/refused").wait_for()
    row(page, "Timeline", "web/passing").wait_for()
    page.get_by_role("searchbox", name="Search").fill("a2")
    page.get_by_role("button", name="Apply").click()
    row(page, "Services", "a2").wait_for()
    assert row(page, "Services", "a1").count() == 0
    page.get_by_role("link", name="Refresh").click()
    assert page.get_by_role("searchbox", name="Search").input_value() == "a2"
    stage.put("web/unseen-a2")
    page.get_by_role("link", name="Refresh").click()
    row(page, "Services", "unseen-a2").wait_for()
