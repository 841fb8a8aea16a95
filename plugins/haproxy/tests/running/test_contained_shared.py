"""Refused items on a shared address, of services by their host names, and offenders that no alert names."""

import ssl
import sys
from pathlib import Path
from typing import Any

from haproxy_driver import Drive
from haproxy_web import Fetch

from discovery import Backend
from discovery.testing import backend, free_port

Origins = tuple[Backend, ...]


def of(service: str, origin: Backend) -> Backend:
    return backend(service=service, id=f"{service}-{origin.port}", port=origin.port)


async def refused(driver: Any) -> list[str]:
    return [each["part"] for each in (await driver.consumer.inspect())["refused"]]


async def test_a_refused_service_on_a_shared_address_leaves_the_other_hosts_alone(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str
) -> None:
    def services(**web: Any) -> dict[str, Any]:
        return {
            "web": {"bind": bind, "hosts": "web.example", "check": False, **web},
            "api": {"bind": bind, "hosts": "api.example", "check": False},
        }

    async with drive(services=services()) as driver:
        await driver.apply(of("web", origins[0]), of("api", origins[0]))
        changed = services(frontend_lines=["nonsense"], hosts=["www.example", "web.example"])
        assert await driver.consumer.reconfigure(driver.configured(services=changed))
        await driver.apply(of("web", origins[1]), of("api", origins[2]))
        assert fetch(f"http://{bind}/", Host="web.example").body == str(origins[1].port)
        assert fetch(f"http://{bind}/", Host="api.example").body == str(origins[2].port)
        assert await refused(driver) == ["service 'web'"]


async def test_a_certificate_that_was_never_accepted_closes_nothing_of_the_other_services(
    drive: Drive, origins: Origins, bind: str, tmp_path: Path
) -> None:
    import trustme

    good, broken = tmp_path / "good.pem", tmp_path / "broken.pem"
    trustme.CA().issue_cert("api.example").private_key_and_cert_chain_pem.write_to_path(good)
    broken.write_text("not a certificate\n")
    services = {
        "web": {"bind": {"address": bind, "certificate": broken}, "hosts": "web.example", "check": False},
        "api": {"bind": {"address": bind, "certificate": good}, "hosts": "api.example", "check": False},
    }
    async with drive(services=services) as driver:
        await driver.apply(of("web", origins[0]), of("api", origins[1]))
        host, _, port = bind.rpartition(":")
        assert b"api.example" in ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((host, int(port))))
        assert await refused(driver) == [f"bind {bind} of 'web'"]


async def test_a_line_that_breaks_a_service_without_options_is_found_in_the_settings(
    drive: Drive, fetch: Fetch, origins: Origins, bind: str, tmp_path: Path
) -> None:
    template = tmp_path / "mine.cfg.j2"
    template.write_text("{% extends 'builtin/haproxy.cfg.j2' %}")
    async with drive(bind=bind, template=template) as driver:
        await driver.apply(of("web", origins[0]), of("api", origins[0]))
        template.write_text(
            "{% extends 'builtin/haproxy.cfg.j2' %}{% block service %}{{ super() | raw }}\n  nonsense\n{% endblock %}"
        )
        await driver.apply(of("web", origins[1]), of("api", origins[2]))
        assert fetch(f"http://{bind}/", Host="web").body == str(origins[1].port)
        assert fetch(f"http://{bind}/", Host="api").body == str(origins[2].port)
        assert await refused(driver) == ["the global settings"]


async def test_offenders_that_the_check_does_not_name_are_found_by_halving(
    drive: Drive, tmp_path: Path, origins: Origins
) -> None:
    path, checker, runs = tmp_path / "haproxy.cfg", tmp_path / "check", tmp_path / "runs"
    checker.write_text(
        f"#!{sys.executable}\nimport sys\nopen(sys.argv[1], 'a').write('.')\n"
        "sys.exit('no' if 'acl refused' in sys.stdin.read() else 0)\n"
    )
    checker.chmod(0o700)
    names = [f"s{number:02}" for number in range(30)]
    services = {name: {"bind": f"127.0.0.1:{free_port()}"} for name in names}
    external = {"path": path, "command": ["true"], "validate": [str(checker), str(runs)]}
    async with drive(binary=Path("/nonexistent"), services=services, external=external) as driver:
        await driver.apply(*(of(name, origins[0]) for name in names))
        runs.unlink()
        changed = {name: {**each, "backend_lines": ["acl fine always_true"]} for name, each in services.items()}
        for name in ("s07", "s23"):
            changed[name]["backend_lines"] = ["acl refused always_true"]
        assert await driver.consumer.reconfigure(driver.configured(services=changed))
        await driver.apply(*(of(name, origins[1]) for name in names))
        assert await refused(driver) == ["service 's07'", "service 's23'"]
        text = path.read_text()
        assert text.count("acl fine") == 28
        assert text.count(origins[1].address) == 30
        assert len(runs.read_text()) < 20
