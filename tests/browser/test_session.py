"""A person logs in at the live page and out of it; a page whose session has ended leads to the form, and back."""

import re
import signal
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from browsing import LOOKS, Visits, live, row, violations
from daemons import Daemon, starting, write_record

from discovery.testing import eventually_sync, within

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

TOKENS = ("t" * 32, "u" * 32)
ENDED = re.compile("Your session has ended")


class Guarded(NamedTuple):
    """A daemon that asks for a token."""

    daemon: Daemon
    token: Path

    @property
    def url(self) -> str:
        return f"http://{self.daemon.admin}/?q=web&changes=100"

    def change(self, token: str) -> None:
        self.token.write_text(token)
        self.daemon.process.send_signal(signal.SIGHUP)
        eventually_sync(lambda: self._takes(token), "the daemon to take the token", timeout=60)

    def _takes(self, token: str) -> bool:
        request = urllib.request.Request(
            f"http://{self.daemon.admin}/api", headers={"Authorization": f"Bearer {token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=within(10)) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError:
            return False


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    with tempfile.TemporaryDirectory(prefix="session-") as directory, starting(Path(directory)) as start:
        place = Path(directory)
        (place / "registry").mkdir()
        write_record(place / "registry", "web/a", "10.0.0.1:80")
        write_record(place / "registry", "db/b", "10.0.0.2:80")
        token, template = place / "token", place / "file.j2"
        token.write_text(TOKENS[0])
        token.chmod(0o600)
        template.write_text("{% for each in backends %}{{ each.address }}\n{% endfor %}")
        config = place / "discovery.toml"
        config.write_text(
            f'admin_token_file = "{token}"\n[consumers.file]\nplugin = "template"\n'
            f'files = [{{ template = "{template}", file = "{place / "file"}", format = "plain" }}]\n'
        )
        daemon = start("--registry", f"file://{place / 'registry'}", "--config", str(config))
        eventually_sync(lambda: "10.0.0.1" in (place / "file").read_text(), "the file to have the records", timeout=60)
        yield Guarded(daemon, token)


@pytest.fixture
def anew(guarded: Guarded, visit: Visits) -> Iterator[Guarded]:
    """The daemon with the first token; what a browser says of an answer 401 is no fault."""
    yield guarded
    guarded.change(TOKENS[0])
    visit.faults[:] = [each for each in visit.faults if "401" not in each]


def log_in(page: "Page", token: str) -> None:
    """Send the form with the token, which the daemon takes."""
    page.get_by_label("Token of this daemon").fill(token)
    page.keyboard.press("Enter")
    row(live(page), "Services", "10.0.0.1").wait_for()


def test_a_page_whose_session_has_ended_leads_to_the_form_and_back_to_its_filters(visit: Visits, anew: Guarded) -> None:
    page = visit(anew.url)
    log_in(page, TOKENS[0])
    page.get_by_role("searchbox", name="Search").fill("10.0.0.1")
    page.wait_for_url(re.compile(r"q=10\.0\.0\.1"))
    address = page.url
    anew.change(TOKENS[1])
    page.get_by_role("status").filter(has_text=ENDED).wait_for()
    page.get_by_role("link", name="Log in").click()
    page.get_by_text(ENDED).wait_for()
    log_in(page, TOKENS[1])
    assert page.url == address
    assert page.get_by_role("searchbox", name="Search").input_value() == "10.0.0.1"
    assert row(page, "Services", "10.0.0.2").count() == 0


def test_a_log_out_by_keyboard_ends_every_tab_and_a_log_in_revives_them(visit: Visits, anew: Guarded) -> None:
    page = visit(anew.url)
    log_in(page, TOKENS[0])
    other = page.context.new_page()
    other.goto(anew.url)
    live(other)
    page.get_by_role("button", name="Log out").focus()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/login$"))
    other.get_by_role("status").filter(has_text=ENDED).wait_for()
    log_out = other.get_by_role("button", name="Log out")
    log_out.wait_for(state="hidden")
    log_in(page, TOKENS[0])
    live(other)
    log_out.wait_for()


SLOW_ANSWERS = """
delete window.SharedWorker;
const [Source, ask] = [EventSource, fetch];
window.EventSource = class extends Source {
  constructor(url) { super(url); window.source = this; }
};
window.fetch = (...given) => given[0] === "/api" ? new Promise((told) => window.answer = () => told(ask("/api")))
  : ask(...given);
"""
"""A tab that has a stream of its own, and asks whether it is known until the test lets the answer come."""


def test_a_page_that_is_live_again_is_not_said_to_be_lost(visit: Visits, anew: Guarded) -> None:
    """Whether the session has ended is asked at an error, and may be answered after the stream is open again."""
    visitor = visit.visitor(anew.url)
    visitor.add_init_script(SLOW_ANSWERS)
    page = visitor.new_page()
    page.goto(anew.url)
    log_in(page, TOKENS[0])
    page.evaluate(
        """async () => {
            source.dispatchEvent(new Event("error"));
            answer();
            await fetch("/healthz");
            await new Promise((over) => setTimeout(over, 300));
        }"""
    )
    live(page)
    assert page.get_by_role("status").inner_text() == "Live"


@LOOKS
def test_axe_finds_nothing_wrong_with_the_forms_and_an_ended_page(
    scheme: str, viewport: dict[str, int], visit: Visits, anew: Guarded, axe: str
) -> None:
    # A form has a policy without scripts of others, such as axe's.
    page = visit(anew.url, color_scheme=scheme, viewport=viewport, bypass_csp=True)
    assert violations(page, axe) == []
    log_in(page, TOKENS[0])
    assert violations(page, axe) == []
    other = page.context.new_page()
    other.goto(f"http://{anew.daemon.admin}/logout")
    assert violations(other, axe) == []
    other.get_by_role("button", name="Log out").click()
    page.get_by_role("status").filter(has_text=ENDED).wait_for()
    assert violations(page, axe) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
