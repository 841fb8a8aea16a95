"""Every section of the live page, filled and open: for axe-core, in narrow windows, by keyboard, without JavaScript."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browsing import LOOKS, Visits, badge, live, region, row, violations
from livepage import REASON, Stage, staged

from discovery.testing import eventually_sync

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.browser

WORD = "w" * 120
"""Wider than a window of 400 pixels."""
KEPT = f"api/{WORD}"
"""The key of a record that the registry loses."""
SECTIONS = {
    "Overview": REASON,
    "Flow": "archive",
    "Services": WORD,
    "Consumers": REASON,
    "Providers": "says failing",
    "Rejected records": WORD,
    "Held records": KEPT,
    "Registry": "leader",
    "Timeline": WORD,
    "Fleet": "daemons",
    "Plugins": "Consumer archive",
}
"""The sections, and a text of each that is there only when the section is filled."""


@pytest.fixture(scope="module")
def full() -> Iterator[Stage]:
    """A daemon with something in every section, with long words: its registry has lost its data."""
    with tempfile.TemporaryDirectory(prefix="page-") as directory, staged(Path(directory)) as stage:
        labels = {"k" * 60: "v" * 100}
        stage.put(KEPT, json.dumps({"host": "127.0.0.1", "port": stage.origin, "labels": labels}))
        eventually_sync(lambda: WORD in str(stage.daemon.get("/api/snapshot")[1]["services"]), "the record", timeout=60)
        stage.fail()
        stage.etcd.kill()
        stage.etcd.wipe()
        stage.etcd.start()
        stage.put(f"web/{WORD}", f"{'h' * 60}.invalid:80")
        stage.put(f"web/bad-{WORD}", "z" * 300)
        stage.put("api/silent", "127.0.0.1:1")
        stage.etcd.ctl("put", f"/discovery/daemons/{WORD}", "z" * 300)
        eventually_sync(lambda: KEPT in held(stage), "what the registry has lost to be held", timeout=60)
        eventually_sync(lambda: stage.daemon.consumer("archive")["state"] == "failing", "the failure", timeout=60)
        eventually_sync(lambda: "api/silent" in stage.daemon.consumer("edge")["down"], "a down backend", timeout=60)
        eventually_sync(lambda: stage.daemon.provider("machine")["registered"] == 1, "the provider", timeout=60)
        eventually_sync(lambda: has_fleet(stage), "the daemon to be announced again, and the wrong record", timeout=60)
        yield stage


def held(stage: Stage) -> Any:
    return stage.daemon.get("/api/status")[1]["registry"]["held"]["records"]


def has_fleet(stage: Stage) -> bool:
    fleet = stage.daemon.get("/api/fleet")[1]
    return bool(fleet["daemons"]) and WORD in str(fleet["invalid"])


def opened(page: "Page") -> "Page":
    """Open everything that can be opened, and wait until it is all there."""
    for each in page.locator("summary").all():
        each.click()
    region(page, "Fleet").get_by_role("row").nth(1).wait_for()
    region(page, "Fleet").get_by_text(WORD).first.wait_for()
    region(page, "Plugins").get_by_text("n" * 80).wait_for()
    region(page, "Plugins").locator("[id='panel-consumers%2Fedge-told']").wait_for()
    return page


def assert_filled(page: "Page") -> None:
    headings = page.locator("section > h2").all_inner_texts()
    assert headings == list(SECTIONS), "a section without an expectation"
    for name, text in SECTIONS.items():
        filled(page, name).get_by_text(text).first.wait_for(state="attached")
    badge(row(page, "Services", "silent"), "down").wait_for()
    region(page, "Registry").get_by_role("row").nth(1).wait_for()


def filled(page: "Page", name: str) -> "Locator":
    found = region(page, name)
    assert found.count() == 1, name
    return found


@LOOKS
def test_axe_finds_nothing_wrong_with_every_section(
    scheme: str, viewport: dict[str, int], visit: Visits, full: Stage, axe: str
) -> None:
    page = opened(live(visit(full.url, color_scheme=scheme, viewport=viewport)))
    assert_filled(page)
    assert violations(page, axe) == []
    wide = page.evaluate(
        """() => [...document.querySelectorAll('section, section *')]
            .filter(each => !each.closest('.scroll, svg, thead, .hidden'))
            .filter(each => each.getBoundingClientRect().right > innerWidth + 1)
            .map(each => each.closest('section').id + ': ' + each.outerHTML.slice(0, 100))"""
    )
    assert wide == [], "what sticks out of the window"
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_every_section_is_read_and_opened_without_javascript(visit: Visits, full: Stage) -> None:
    page = visit(full.url, java_script_enabled=False)
    assert_filled(page)
    region(page, "Flow").locator("summary").click()
    region(page, "Flow").get_by_text("Consumer edge:").wait_for()
    region(page, "Fleet").locator("summary").click()
    region(page, "Fleet").get_by_role("link", name="Show").click()
    region(page, "Fleet").get_by_role("row").nth(1).wait_for()
    region(page, "Plugins").get_by_text("Consumer archive").click()
    region(page, "Plugins").get_by_role("link", name="Show").first.click()
    page.wait_for_url("**panel=consumers**")
    page.goto(f"{full.url}?panel=consumers/archive")
    region(page, "Plugins").get_by_text("n" * 80).wait_for()
    page.goto(f"{full.url}?q=silent&health=down&changes=100")
    row(page, "Services", "silent").wait_for()
    assert region(page, "Services").get_by_role("row").count() == 2
    assert page.get_by_role("combobox", name="Health").input_value() == "down"


def test_the_fleet_and_the_panels_are_opened_by_keyboard_alone(visit: Visits, full: Stage) -> None:
    page = live(visit(full.url))
    for name, text in (("Fleet", WORD), ("Plugins", "n" * 80)):
        closed = region(page, name).locator("summary").filter(has_text="archive" if name == "Plugins" else "All")
        for _ in range(200):
            page.keyboard.press("Tab")
            if closed.evaluate("it => it === document.activeElement"):
                break
        page.keyboard.press("Enter")
        region(page, name).get_by_text(text).first.wait_for()
        page.keyboard.press("Enter")
        region(page, name).get_by_text(text).first.wait_for(state="hidden")
