"""The sections of the live page that tell of others: the daemons of the fleet, and the members of the registry."""

import re
from typing import TYPE_CHECKING

import pytest
from browsing import NARROW, WIDE, Visits, live, region, row, violations
from livepage import Stage

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

WINDOWS = {"wide": WIDE, "tablet": {"width": 950, "height": 900}, "narrow": NARROW}
LENGTHEN = """table => {
    for (const each of table.querySelectorAll('tbody td, tbody th'))
        each.append(each.cloneNode(true).textContent.trim().padEnd(120, 'x'))
}"""


def opened(page: "Page") -> "Page":
    """The page once its fleet is open, by keyboard, and the members of the registry are shown."""
    summary = region(page, "Fleet").locator("summary")
    summary.focus()
    page.keyboard.press("Enter")
    row(page, "Fleet", "(this one)").wait_for()
    row(page, "Registry", "leader").wait_for()
    return page


@pytest.mark.parametrize(
    ("scheme", "window"), [("light", "wide"), ("dark", "wide"), ("light", "tablet"), ("dark", "narrow")]
)
def test_axe_finds_nothing_wrong_and_long_words_widen_nothing(
    scheme: str, window: str, visit: Visits, stage: Stage, axe: str
) -> None:
    page = opened(live(visit(stage.url, color_scheme=scheme, viewport=WINDOWS[window])))
    assert violations(page, axe) == []
    for name in ("Members of the registry", "Daemons of the fleet"):
        region(page, name).locator("table").evaluate(LENGTHEN)
    wide, shown = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= shown


@pytest.mark.parametrize("window", ["wide", "narrow"])
def test_both_tables_are_reached_by_keyboard_and_told_by_name(window: str, visit: Visits, stage: Stage) -> None:
    page = opened(live(visit(stage.url, viewport=WINDOWS[window])))
    page.keyboard.press("Tab")
    assert region(page, "Daemons of the fleet").evaluate("it => it === document.activeElement")
    region(page, "Registry").get_by_role("table", name="The members of the registry").wait_for()
    region(page, "Fleet").get_by_role("table", name="The daemons of the fleet").wait_for()
    region(page, "Members of the registry").focus()
    style = region(page, "Members of the registry").evaluate("it => getComputedStyle(it).outlineStyle")
    assert style != "none", "the focus is seen"


def test_the_fleet_is_read_without_javascript(visit: Visits, stage: Stage) -> None:
    page = visit(stage.url, java_script_enabled=False)
    region(page, "Fleet").locator("summary").click()
    region(page, "Fleet").get_by_role("link", name="Show").click()
    row(page, "Fleet", "(this one)").wait_for()
    assert re.search(r"panel=fleet", page.url)
