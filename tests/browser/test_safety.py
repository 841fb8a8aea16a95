"""The live page runs its own script alone, and takes what others have registered as text."""

import json
import re
import urllib.request
from html.parser import HTMLParser
from urllib.parse import urljoin

import pytest
from browsing import Visits, live, region, row
from livepage import Stage

from discovery.testing import within

pytestmark = pytest.mark.browser

MOST_SCRIPT = 30_000
"""Bytes of own script."""
EVIL = "<script>window.evil=1</script><img src=x onerror=window.evil=1>\" onfocus='window.evil=1' autofocus x=\""
INLINE = """() => {
    document.addEventListener('securitypolicyviolation', event => { window.blocked = event.effectiveDirective })
    const script = document.createElement('script')
    script.textContent = 'window.evil = 1'
    document.body.append(script)
}"""


class Tags(HTMLParser):
    """The scripts of a page, and what is styled or scripted in its text."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts = set[str]()
        self.inline = list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.scripts |= {value for value in given.values() if value and re.match(r"/[^?]*\.js\b", value)}
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)
        self.inline += [f"{tag} {name}" for name in given if name == "style" or name.startswith("on")]


def fetched(url: str) -> tuple[dict[str, str], str]:
    request = urllib.request.Request(url, headers={"Accept": "text/html,*/*"})
    with urllib.request.urlopen(request, timeout=within(30)) as answer:
        return {name.lower(): value for name, value in answer.headers.items()}, answer.read().decode()


def test_an_inline_script_is_blocked(visit: Visits, stage: Stage) -> None:
    page = live(visit(stage.url))
    page.evaluate(INLINE)
    page.wait_for_function("() => window.blocked")
    assert page.evaluate("() => window.evil") is None
    assert page.evaluate("() => window.blocked").startswith("script-src")
    assert len(visit.faults) == 1
    assert "inline" in visit.faults.pop()


def test_a_record_is_shown_as_text(visit: Visits, stage: Stage) -> None:
    record = {"host": "10.0.0.66", "port": 80, "labels": {"note": EVIL, EVIL: "x"}}
    stage.put("web/evil", json.dumps(record))
    stage.put("web/worse", json.dumps({"host": EVIL, "port": 80}))
    page = live(visit(stage.url))
    row(page, "Services", "10.0.0.66").get_by_text(EVIL).first.wait_for()
    row(page, "Rejected records", "web/worse").wait_for()
    page.get_by_role("searchbox", name="Search").fill(EVIL)
    page.wait_for_url(re.compile("evil"))
    page.reload()
    assert page.get_by_role("searchbox", name="Search").input_value() == EVIL.strip()
    assert region(page, "Services").get_by_role("row").count() == 2
    assert page.evaluate("() => window.evil") is None
    assert page.locator("img, [onfocus], [onerror]").count() == 0


def test_the_policy_is_strict_and_the_script_is_small(stage: Stage) -> None:
    headers, text = fetched(stage.url)
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy
    page = Tags()
    page.feed(text)
    assert page.inline == []
    scripts = {urljoin(stage.url, path) for path in page.scripts}
    assert scripts
    assert sum(len(fetched(each)[1].encode()) for each in scripts) < MOST_SCRIPT
