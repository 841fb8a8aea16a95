"""`discovery explain` of a daemon whose consumers answer clients: `dns` and `xds`."""

import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from daemons import DISCOVERY, RecordFiles, Starter

from discovery.testing import eventually_sync, free_port, within

pytestmark = [pytest.mark.warm, pytest.mark.timeout(300)]

CONFIG = """
[consumers.names]
plugin = "dns"
listen = "127.0.0.1:{dns}"
services = ["web", "x.addr"]
[consumers.mesh]
plugin = "xds"
listen = "127.0.0.1:{xds}"
services.web = {{ labels = {{ colour = ["blue", "green"] }} }}
"""
RECORDS = {
    "web/ok": '{"host": "10.0.0.1", "port": 80, "weight": 3, "colour": "blue"}',
    "web/red": '{"host": "10.0.0.2", "port": 80, "colour": "red"}',
    "web/drains": '{"host": "10.0.0.3", "port": 80, "colour": "green", "state": "draining"}',
    "x.addr/a": "10.0.0.4:80",
    "api/a": "10.0.0.5:80",
}


class Situation(NamedTuple):
    """A record, whether it is used, and a line that a consumer tells: as one of its lines, or as why it has none."""

    key: str
    used: bool
    consumer: str
    line: str
    left_out: bool = False


SITUATIONS = (
    Situation("web/ok", True, "names", "web.service.internal. 5 IN A 10.0.0.1"),
    Situation("web/ok", True, "names", "_web._tcp.service.internal. 5 IN SRV 0 3 80 10-0-0-1.addr.service.internal."),
    Situation("web/ok", True, "mesh", "cluster web: endpoint 10.0.0.1:80 weight 3 priority 0"),
    Situation("web/red", True, "names", "web.service.internal. 5 IN A 10.0.0.2"),
    Situation("web/red", True, "mesh", "service web takes backends with the labels colour=blue|green", True),
    Situation(
        "web/drains",
        False,
        "names",
        "web.service.internal. has it in no answer with A, AAAA or SRV records:"
        " it gets no new work, and other backends of the service do",
    ),
    Situation("web/drains", False, "mesh", "cluster web: no endpoint: it gets no new work"),
    Situation(
        "x.addr/a",
        False,
        "names",
        "the service has no domain name: names that end with 'addr' are those of addresses and SRV records",
        True,
    ),
    Situation("api/a", False, "names", "its option 'services' selects web, x.addr", True),
    Situation("api/a", False, "mesh", "'services' has no entry for 'api', but for web", True),
)


def faults(record: dict[str, Any], situation: Situation) -> list[str]:
    """Return what is told differently."""
    name = situation.consumer
    lines = [line for each in record["consumers"] if each["consumer"] == name for line in each["rendered"] or ()]
    why = [each["text"] for each in record["reasons"] if (each["kind"], each["instance"]) == ("filtered", name)]
    right = situation.line in (why if situation.left_out else lines) and not (lines if situation.left_out else why)
    return [] if right and record["used"] is situation.used else [f"{situation}: {record}"]


def test_consumers_that_answer_clients_tell_where_a_backend_stands(
    tmp_path: Path, start_daemon: Starter, file_registry: RecordFiles
) -> None:
    url, write = file_registry
    config = tmp_path / "discovery.toml"
    config.write_text(CONFIG.format(dns=free_port(), xds=free_port()))
    for key, value in RECORDS.items():
        write(key, value)
    daemon = start_daemon("--registry", url, "--config", str(config))

    def told_rightly() -> bool:
        found = []
        for each in SITUATIONS:
            service, _, id_ = each.key.partition("/")
            (record,) = daemon.get(f"/api/explain?service={service}&id={id_}")[1]["records"]
            found += faults(record, each)
        assert found == []
        return True

    eventually_sync(told_rightly, "the right lines", timeout=60)
    line = [*DISCOVERY, "explain", "web/red", "--admin", daemon.admin, "--config", "/dev/null"]
    text = subprocess.run(line, capture_output=True, text=True, timeout=within(60), check=True).stdout
    assert text.startswith("web/red 10.0.0.2:80 colour=red: used\n  mesh: filtered: service web takes backends"), text
    assert "\n    web.service.internal. 5 IN A 10.0.0.2\n" in text
    document = subprocess.run([*line, "--json"], capture_output=True, timeout=within(60), check=True).stdout
    assert json.loads(document)["records"][0]["reasons"][0]["kind"] == "filtered"
