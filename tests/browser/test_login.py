"""A person logs in at the live page by keyboard, with and without JavaScript, and the token is seen nowhere."""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browsing import LOOKS, Visits, live, row, violations
from daemons import Daemon, starting

from discovery.testing import eventually_sync

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

TOKEN = "a-token-of-a-person-0123456789abcdef"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Daemon]:
    """A daemon with a token."""
    with tempfile.TemporaryDirectory(prefix="page-") as name, starting(Path(name)) as start:
        directory = Path(name)
        (directory / "registry" / "web").mkdir(parents=True)
        (directory / "registry" / "web" / "a1").write_text("127.0.0.1:9")
        token = directory / "token"
        token.touch(0o600)
        token.write_text(f"{TOKEN}\n")
        config = directory / "discovery.toml"
        config.write_text(
            f'admin_token_file = "{token}"\n[registry]\nurl = "file://{directory / "registry"}"\n'
            f'[consumers.proxy]\nplugin = "tcpproxy"\nlisten.web = "{directory / "web.sock"}"\n'
        )
        daemon = start("--config", str(config))
        eventually_sync(daemon.is_ready, "the daemon to be ready", timeout=60)
        yield daemon


def asked(visit: Visits, url: str, **options: Any) -> "Page":
    """Open a page, which asks for the token first; the browser tells of that with an error, which is right."""
    page = visit(url, **options)
    page.get_by_label("Token of this daemon").wait_for()
    assert all("401" in fault for fault in visit.faults), visit.faults
    visit.faults.clear()
    return page


@LOOKS
def test_axe_finds_nothing_wrong_with_the_form(
    scheme: str, viewport: dict[str, int], visit: Visits, guarded: Daemon, axe: str
) -> None:
    page = asked(visit, f"http://{guarded.admin}/", color_scheme=scheme, viewport=viewport)
    assert violations(page, axe) == []
    page.keyboard.type("not-the-token")
    page.keyboard.press("Enter")
    page.get_by_role("alert").wait_for()
    assert violations(page, axe) == []
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert len(visit.faults) == 1, visit.faults
    assert "401" in visit.faults.pop()


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without"])
def test_a_person_logs_in_by_keyboard_and_out(scripts: bool, visit: Visits, guarded: Daemon) -> None:
    url = f"http://{guarded.admin}/?q=a1"
    page = asked(visit, url, java_script_enabled=scripts)
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/\?q=a1$"))
    row(page, "Services", "a1").wait_for()
    if scripts:
        live(page)
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert TOKEN not in cookie["value"]
    assert addresses
    assert not [each for each in addresses if TOKEN in each]
    assert TOKEN not in page.content()
    page.goto(f"http://{guarded.admin}/logout")
    page.get_by_role("button", name="Log out").focus()
    page.keyboard.press("Enter")
    page.get_by_label("Token of this daemon").wait_for()
    assert page.context.cookies() == []
    asked(visit, url)
    assert TOKEN not in guarded.log
