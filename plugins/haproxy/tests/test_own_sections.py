"""Services with the name of a section of the user's own: left out, since HAProxy would refuse everything."""

from pathlib import Path
from typing import Any

from discovery.testing import backend, snapshot
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.rendering.render import Rendered, Runtime, render
from discovery_haproxy.text.neighbours import neighbours

OWN = "frontend web\n    bind 127.0.0.1:9\n{kind} table\n    stick-table type ip size 1k\n"
OF = snapshot(backend("table", port=8001), backend("web", port=8002))


def rendered(runtime: Runtime, **config: Any) -> Rendered:
    return render(HAProxyConfig.model_validate(config), OF, runtime)


def test_a_registered_service_does_not_get_the_name_of_an_included_section(tmp_path: Path) -> None:
    for kind in ("backend", "listen"):
        (tmp_path / "own.cfg").write_text(OWN.format(kind=kind))
        found = rendered(Runtime(), include=[tmp_path])
        assert f"service 'table' is left out: {tmp_path}/own.cfg:3 has a section of that name" in found.problems
        assert found.text.count(f"\n{kind} table\n") == 1
        assert [section.name for section in found.sections.services] == ["web"]


def test_a_service_that_a_fragment_leaves_out_has_no_route() -> None:
    beside = neighbours([(Path("/etc/own.cfg"), f"defaults\n    mode http\n{OWN.format(kind='backend')}")])
    external = {"fragment": "/etc/x.cfg", "files": ["/etc/own.cfg"], "systemd_unit": "haproxy"}
    services = {"table": {"hosts": "table.example.com"}, "web": {"hosts": "web.example.com"}}
    found = rendered(Runtime(neighbours=beside), external=external, bind="127.0.0.1:8080", services=services)
    assert [section.name for section in found.sections.services] == ["web"]
    assert "service 'table' is left out: /etc/own.cfg:5 has a section of that name" in found.problems[0]
    assert [route.service for frontend in found.sections.frontends for route in frontend.routes] == ["web"]
