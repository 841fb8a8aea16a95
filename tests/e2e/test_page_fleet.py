"""The section "Fleet" of the live page: other daemons, asked when it is opened."""

import urllib.request
from pathlib import Path

import pytest
from daemons import Daemon, Starter
from etcds import etcd
from fleets import Fleet, await_states, record

from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync, within

pytestmark = pytest.mark.warm

__all__ = ["etcd"]


def html(daemon: Daemon, path: str) -> str:
    request = urllib.request.Request(f"http://{daemon.admin}{path}", headers={"Accept": "text/html"})
    with urllib.request.urlopen(request, timeout=within(20)) as answer:
        assert answer.headers["Content-Type"].startswith("text/html")
        return str(answer.read().decode())


def test_the_page_shows_the_fleet_when_it_is_opened(tmp_path: Path, start_daemon: Starter, etcd: EmbeddedEtcd) -> None:
    fleet = Fleet(tmp_path, start_daemon, etcd)
    one, two = fleet("one"), fleet("two")
    await_states(one, {one.admin: "ok", two.admin: "ok"})
    Path(fleet.ill("two")).touch()
    fleet.put("0" * 16, record(1, machine="<script>alert(1)</script>"))
    fleet.put("<b>key</b>", "nonsense")
    eventually_sync(lambda: "it has a fever" in html(one, "/panel/fleet"), timeout=60)
    eventually_sync(lambda: "daemons/&lt;b&gt;key&lt;/b&gt;" in html(one, "/panel/fleet"), timeout=60)

    closed = html(one, "/")
    assert 'data-panel="/panel/fleet"' in closed
    assert two.admin not in closed, "nobody is asked before somebody looks"
    for text in (html(one, "/?panel=fleet"), html(one, "/panel/fleet")):
        assert one.admin in text
        assert two.admin in text
        assert "&lt;script&gt;alert(1)" in text
        assert "<script>alert(1)" not in text
        assert "unreachable" in text
