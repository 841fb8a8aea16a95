"""The live page keeps to the width of its window, whatever a record has in it."""

import json

import pytest
from browsing import NARROW, WIDE, Visits, live, region, row
from livepage import Stage

pytestmark = pytest.mark.browser

WINDOWS = {"wide": WIDE, "tablet": {"width": 950, "height": 900}, "narrow": NARROW}
LONG = {
    "host": f"{'h' * 60}.{'g' * 60}.invalid",
    "port": 8080,
    "labels": {"k" * 60: "v" * 200, **{f"l{number}": "w" * 40 for number in range(6)}},
}


@pytest.mark.parametrize("window", WINDOWS)
def test_long_words_do_not_widen_the_page(window: str, visit: Visits, stage: Stage) -> None:
    stage.put(f"{'s' * 100}/{'i' * 100}-{window}", json.dumps(LONG))
    stage.put(f"web/{'r' * 120}-{window}", "z" * 300)
    page = live(visit(stage.url, viewport=WINDOWS[window]))
    row(page, "Services", f"{'i' * 100}-{window}").wait_for()
    row(page, "Rejected records", f"{'r' * 120}-{window}").wait_for()
    for part in page.locator("summary").all():
        part.click()
    region(page, "Plugins").get_by_text("n" * 80).wait_for()
    wide, shown = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= shown


@pytest.mark.parametrize("window", WINDOWS)
def test_a_long_record_leaves_the_words_of_others_whole(window: str, visit: Visits, stage: Stage) -> None:
    stage.put(f"{'s' * 100}/{'i' * 100}", json.dumps(LONG))
    stage.put("web/whole", "203.0.113.201:60001")
    page = live(visit(stage.url, viewport=WINDOWS[window]))
    row(page, "Services", "i" * 100).wait_for()
    whole = row(page, "Services", "whole")
    for text in ("web", "whole", "203.0.113.201:60001"):
        lines = whole.get_by_text(text, exact=True).evaluate(
            """each => {
                const range = document.createRange()
                range.selectNodeContents(each)
                return new Set([...range.getClientRects()].map(box => Math.round(box.top))).size
            }"""
        )
        assert lines == 1, text
