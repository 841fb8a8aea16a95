"""Debian's chromium without a window, driven by Playwright. What a page of ours does wrong is collected.

While a browser runs, its event loop counts as running on this thread: no `asyncio.run` here.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from making import require_module

from discovery.testing import require_program, within

if TYPE_CHECKING:  # so that tests of other parts run without Playwright
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, Request

WIDE = {"width": 1280, "height": 900}
NARROW = {"width": 400, "height": 800}
LOOKS = pytest.mark.parametrize(
    ("scheme", "viewport"),
    [
        pytest.param("light", WIDE, id="light-wide"),
        pytest.param("dark", NARROW, id="dark-narrow"),
        pytest.param("dark", WIDE, id="dark-wide", marks=pytest.mark.exhaustive),
        pytest.param("light", NARROW, id="light-narrow", marks=pytest.mark.exhaustive),
    ],
)
"""Each scheme of colours and each width once: a narrow window has no colour of its own. All four in `make test-all`."""
_OPTIONS = (
    "--disable-dev-shm-usage",  # containers have 64 MB of it
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing outside can be reached
)


@contextmanager
def chromium() -> Iterator["Browser"]:
    """Run the browser."""
    program = require_program("chromium")
    require_module("playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=[*_OPTIONS], timeout=within(60) * 1000, chromium_sandbox=False
        )
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visits:
    """Opens pages, each as a visitor of its own, and collects what they do wrong."""

    browser: "Browser"
    contexts: list["BrowserContext"] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """Messages of a console that are errors or warnings (a violation of the page's policy is an error), exceptions of
    scripts, and requests to another address than the first of the visitor."""

    def __call__(self, url: str, **options: Any) -> "Page":
        """Open a page as a new visitor; the options are those of Playwright's `new_context`."""
        page = self.visitor(url, **options).new_page()
        page.goto(url)
        return page

    def visitor(self, url: str, **options: Any) -> "BrowserContext":
        """Make a visitor, without cookies and tabs, of the host of the URL."""
        context = self.browser.new_context(**{"viewport": WIDE, **options})
        self.contexts.append(context)
        context.set_default_timeout(within(20) * 1000)
        host = urlsplit(url).netloc

        def requested(request: "Request") -> None:
            there = urlsplit(request.url)
            if there.scheme not in {"data", "blob"} and there.netloc != host:
                self.faults.append(f"a request to {request.url}")

        def told(message: "ConsoleMessage") -> None:
            if message.type in {"error", "warning"}:
                self.faults.append(f"{message.type}: {message.text}")

        context.on("request", requested)
        context.on("console", told)
        context.on("weberror", lambda error: self.faults.append(f"exception: {error.error}"))
        return context

    def close(self) -> None:
        """Let all visitors leave."""
        for context in self.contexts:
            context.close()


@contextmanager
def visiting(browser: "Browser") -> Iterator[Visits]:
    """Yield what opens pages; fail at the end if one of them did something wrong."""
    visits = Visits(browser)
    try:
        yield visits
    finally:
        visits.close()
    assert not visits.faults, visits.faults


def live(page: "Page") -> "Page":
    """Return the page once it says that it is live."""
    page.get_by_role("status").filter(has_text=re.compile("live", re.IGNORECASE)).wait_for()
    return page


def region(page: "Page", name: str) -> "Locator":
    """The part of the live page with that heading."""
    return page.get_by_role("region", name=name, exact=True)


def row(page: "Page", where: str, text: str) -> "Locator":
    """The first row with a text, of a table of that part."""
    return region(page, where).get_by_role("row").filter(has_text=text).first


def badge(within: "Locator", word: str) -> "Locator":
    """The first element whose text is a word, behind a sign perhaps."""
    return within.get_by_text(re.compile(rf"^\W*{word}$")).first


def violations(page: "Page", axe: str) -> list[str]:
    """What axe-core, whose script is `axe`, finds wrong with the page as it is shown now."""
    page.evaluate(axe)
    found = page.evaluate("() => axe.run(document, {rules: {'target-size': {enabled: true}}})")
    assert len(found["passes"]) > 10, "axe-core has looked at the page"
    return [
        f"{each['id']}: {each['help']}: {node['html'][:200]} ({node['failureSummary']})"
        for each in found["violations"]
        for node in each["nodes"][:3]
    ]
