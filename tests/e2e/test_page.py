"""The live page of a real daemon, by HTTP alone: what a browser without scripts shows, and the stream of changes."""

import http.client
import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from daemons import Daemon, RecordFiles
from marred import daemon

from discovery.testing import within

__all__ = ["daemon"]

pytestmark = pytest.mark.warm

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


def get(daemon: Daemon, path: str, accept: str = "text/html,*/*;q=0.8", **headers: str) -> tuple[int, str, Any]:
    """The status, the body and the headers of an answer."""
    connection = http.client.HTTPConnection(daemon.admin, timeout=within(20))
    try:
        connection.request("GET", path, headers={"Accept": accept, **headers})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers
    finally:
        connection.close()


@contextmanager
def stream(daemon: Daemon, query: str = "") -> Iterator[Iterator[dict[str, Any]]]:
    """The documents of the stream."""
    url = f"http://{daemon.admin}/stream{query}"
    with urllib.request.urlopen(url, timeout=within(20)) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        yield (json.loads(line[6:]) for line in answer if line.startswith(b"data: "))


def test_a_browser_gets_a_page_and_a_program_the_paths(daemon: Daemon) -> None:
    status, body, headers = get(daemon, "/")
    assert (status, headers.get_content_type()) == (200, "text/html")
    assert headers["Content-Security-Policy"] == POLICY
    assert headers["X-Content-Type-Options"] == "nosniff"
    for name in ("Services", "Consumers", "Providers", "Rejected records", "Held records", "Registry", "Timeline"):
        assert f">{name}</h2>" in body
    assert "it does not answer" in body
    assert "the value is not HOST:PORT and not a JSON object" in body
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in body
    assert "<script>" not in body
    assert " style=" not in body
    status, body, headers = get(daemon, "/", accept="*/*")
    assert (status, headers.get_content_type()) == (200, "text/plain")
    assert body.startswith("/healthz\n")


def test_filters_are_in_the_url(daemon: Daemon) -> None:
    assert 'id="backend-web%2Fa"' in get(daemon, "/?q=10.0.0.1")[1]
    other = get(daemon, "/?q=%3Cnothing%22")[1]
    assert 'id="backend-web%2Fa"' not in other
    assert 'value="&lt;nothing&#34;"' in other
    assert "0 of 1 backends match" in other
    assert 'id="rejected-web%2Fbad' in get(daemon, "/?q=web/BAD")[1]
    assert 'id="rejected-web%2Fbad' not in get(daemon, "/?q=good")[1]
    assert 'id="backend-web%2Fa"' in get(daemon, "/?health=down")[1]
    assert 'id="backend-web%2Fa"' not in get(daemon, "/?health=well")[1]
    assert get(daemon, "/?page=x&state=nonsense&changes=-1&panel=../..")[0] == 200


def test_static_files_are_kept_by_the_browser(daemon: Daemon) -> None:
    body = get(daemon, "/")[1]
    path = body.partition('src="')[2].partition('"')[0]
    status, script, headers = get(daemon, path)
    assert (status, headers.get_content_type()) == (200, "text/javascript")
    assert "immutable" in headers["Cache-Control"]
    assert get(daemon, path, **{"If-None-Match": headers["ETag"]})[0] == 304
    assert get(daemon, path.partition("?")[0])[2]["Cache-Control"] == "no-cache"
    status, worker, headers = get(daemon, "/static/shared.js")
    assert headers["Content-Security-Policy"] == POLICY, "a shared worker has the policy of its script"
    assert len(script) + len(worker) < 30_000
    assert get(daemon, "/static/site.py")[0] == 404


def test_a_plugin_tells_of_itself_in_a_panel(daemon: Daemon) -> None:
    status, body, headers = get(daemon, "/panel/consumers/follows")
    assert (status, headers["Content-Security-Policy"]) == (200, POLICY)
    assert "&lt;b&gt;one&lt;/b&gt;" in body
    assert "&lt;b&gt;one&lt;/b&gt;" in get(daemon, "/?panel=consumers/follows")[1]
    assert get(daemon, "/panel/consumers/nobody")[0] == 404


def test_the_stream_tells_what_changes(daemon: Daemon, file_registry: RecordFiles, tmp_path: Path) -> None:
    _, write = file_registry
    with stream(daemon, "?view=q%3Dfresh&view=") as documents:
        assert next(documents) == {"views": ["q=fresh", ""]}
        full = {each["view"]: each for each in (next(documents), next(documents))}
        assert full["q=fresh"]["full"]
        assert full["q=fresh"]["rows"]["backend-rows"] == {"order": []}
        assert full[""]["rows"]["backend-rows"]["order"] == ["backend-web%2Fa"]
        write("web/fresh", "10.0.0.7:80")
        news = next(each for each in documents if each["view"] == "q=fresh" and "backend-rows" in each["rows"])
        assert news["rows"]["backend-rows"]["order"] == ["backend-web%2Ffresh"]
        assert "10.0.0.7:80" in news["rows"]["backend-rows"]["html"]["backend-web%2Ffresh"]
        (tmp_path / "fails").touch()
        write("web/last", "10.0.0.8:80")
        texts = (
            each["rows"].get("consumer-rows", {}).get("html", {}).get("consumer-follows", "") for each in documents
        )
        assert next(text for text in texts if "the disk is full" in text)


def test_a_stream_ends_with_its_daemon(daemon: Daemon) -> None:
    with stream(daemon) as documents:
        next(documents)
        assert daemon.stop() == 0
        assert all("view" in each for each in documents), "it ends"
