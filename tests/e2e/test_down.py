"""Backends that the registry calls active and the data plane calls down: HAProxy by its checks, the TCP proxy by its
connections."""

import json
import os
import re
import socket
from contextlib import suppress
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import warm
from daemons import Daemon, RecordFiles, Starter

from discovery.testing import eventually_sync, free_port, require_program, within

pytestmark = [pytest.mark.warm, pytest.mark.timeout(300)]

CONFIG = """
[consumers.edge]
plugin = "haproxy"
services.web = {{ bind = "127.0.0.1:{web}", check = {{ interval = "200ms", fall = 1, rise = 1 }} }}
[consumers.tcp]
plugin = "tcpproxy"
workers = 1
listen.db = {{ bind = "127.0.0.1:{db}" }}
[consumers.names]
plugin = "dns"
listen = "127.0.0.1:{dns}"
services = ["web"]
"""


def explained(daemon: Daemon, key: str) -> dict[str, Any]:
    service, _, id_ = key.partition("/")
    return dict(daemon.get(f"/api/explain?service={service}&id={id_}")[1]["records"][0])


def reasons(daemon: Daemon, key: str) -> list[tuple[str, str]]:
    return [(each["kind"], each["instance"]) for each in explained(daemon, key)["reasons"] if each["kind"] == "down"]


def using(record: dict[str, Any]) -> dict[str, bool]:
    """Whether each consumer gives the record work."""
    return {each["consumer"]: each["used"] for each in record["consumers"]}


def connect(port: int) -> None:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=within(5)) as client:
        client.settimeout(0.2)
        client.recv(1)


def test_what_the_data_plane_finds_down_is_told_everywhere_and_ends(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles
) -> None:
    require_program("haproxy")
    url, write = file_registry
    config, web, db, dead = tmp_path / "discovery.toml", free_port(), free_port(), free_port()
    config.write_text(CONFIG.format(web=web, db=db, dns=free_port()))
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        for service in ("web", "db"):
            write(f"{service}/good", f"127.0.0.1:{server.server_port}")
            write(f"{service}/bad", f"127.0.0.1:{dead}")
        write("web/drains", json.dumps({"host": "127.0.0.1", "port": dead, "state": "draining"}))
        daemon = start_daemon("--registry", url, "--config", str(config))
        eventually_sync(daemon.is_ready, timeout=60)
        eventually_sync(lambda: reasons(daemon, "web/bad") == [("down", "edge")], timeout=60)

        def is_aside() -> bool:
            connect(db)
            return reasons(daemon, "db/bad") == [("down", "tcp")]

        eventually_sync(is_aside, timeout=60)
        assert [reasons(daemon, key) for key in ("web/good", "db/good", "web/drains")] == [[], [], []]
        bad, good = explained(daemon, "web/bad"), explained(daemon, "web/good")
        assert [using(each) for each in (bad, good)] == [{"edge": False, "names": True}, {"edge": True, "names": True}]
        assert (bad["used"], good["used"]) == (True, True), "names answers with it"
        assert [each["down"] for each in bad["consumers"] if each["consumer"] == "names"] == [None]
        assert "L4CON" in next(each["down"] for each in bad["consumers"] if each["consumer"] == "edge")
        line = ("explain", "web/bad", "--admin", daemon.admin, "--config", "/dev/null")
        told = warm.run(*line, env=os.environ, timeout=within(60)).stdout
        assert told.startswith(f"web/bad 127.0.0.1:{dead}: used by names, but not by edge (down)\n"), told
        assert re.search(r"^  edge: live at revision \d+, .*, down$", told, re.MULTILINE), told
        assert explained(daemon, "db/bad")["used"] is False, "its one consumer finds it down"
        (live,) = (each for each in good["consumers"] if each["consumer"] == "edge")
        assert live["rendered"][0].startswith(f"backend web: server good 127.0.0.1:{server.server_port} ")
        (carried,) = (each for each in explained(daemon, "db/good")["consumers"] if each["consumer"] == "tcp")
        assert carried["rendered"] == [
            f"listener db (127.0.0.1:{db}) -> 127.0.0.1:{server.server_port} weight 1",
        ]
        assert ("filtered", "edge") in [
            (each["kind"], each["instance"]) for each in explained(daemon, "db/good")["reasons"]
        ]

        text = daemon.get("/metrics")[1]
        assert 'discovery_consumer_down_backends{consumer="edge",service="web"} 1.0' in text
        assert 'discovery_consumer_down_backends{consumer="tcp",service="db"} 1.0' in text
        assert daemon.get("/healthz")[1]["status"] == "ok", "a backend that is down is no illness of the consumer"
        assert "a backend is down" in daemon.log
        command = ("services", "--health", "--admin", daemon.admin, "--registry", url, "--config", "/dev/null")
        listed = warm.run(*command, env=os.environ, timeout=within(60))
        assert listed.returncode == 0
        lines = {tuple(line.split()[:2]): line for line in listed.stdout.splitlines()}
        assert "HEALTH" in lines["SERVICE", "ID"]
        assert "edge: HAProxy's check: L4CON" in lines["web", "bad"]
        assert "tcp: listener db" in lines["db", "bad"]
        assert "check" not in lines["web", "good"]
        document = warm.run(*command, "--json", env=os.environ, timeout=within(60)).stdout
        assert json.loads(document)["down"].keys() == {"web/bad", "db/bad"}

        for service in ("web", "db"):  # where something listens
            write(f"{service}/bad", f"127.0.0.1:{server.server_port}")
        eventually_sync(lambda: reasons(daemon, "web/bad") == [], timeout=60)
        eventually_sync(lambda: not is_aside() and reasons(daemon, "db/bad") == [], timeout=60)
        eventually_sync(lambda: "a backend is no longer down" in daemon.log, timeout=60)
        none = ('{consumer="edge",service="web"} 0.0', '{consumer="tcp",service="db"} 0.0')
        eventually_sync(
            lambda: all(f"discovery_consumer_down_backends{each}" in daemon.get("/metrics")[1] for each in none),
            timeout=60,
        )
        server.shutdown()


def test_without_a_daemon_the_health_is_not_known(file_registry: RecordFiles) -> None:
    address = f"127.0.0.1:{free_port()}"
    command = ("services", "--health", "--admin", address, "--registry", file_registry[0], "--config", "/dev/null")
    done = warm.run(*command, env=os.environ, timeout=within(60))
    assert done.returncode == 1
    assert "no daemon answers" in done.stderr
