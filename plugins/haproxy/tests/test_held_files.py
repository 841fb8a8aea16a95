"""Which contents of files only a reload changes."""

from pathlib import Path

from discovery import Snapshot
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.rendering.render import Runtime, render


def test_the_contents_of_certificates_and_routes_are_no_part_of_what_only_a_reload_changes() -> None:
    def parts(hosts: str, digests: dict[str, str], files: list[str] | None = None) -> tuple[str, str]:
        services = {
            "web": {"bind": {"address": "*:443", "certificate": ["/ssl/a.pem", "/ssl/all", "/ssl/o d.pem"]}},
            "other": {"bind": "*:443", "hosts": hosts},
        }
        config = HAProxyConfig.model_validate({"services": services, "files": files or []})
        certificates = {Path(path): digest for path, digest in digests.items()}
        named = {path if path.parent.name != "all" else path.parent: each for path, each in certificates.items()}
        result = render(config, Snapshot.of(1, []), Runtime(), {**named, Path("/f"): "1"}, certificates=certificates)
        reload, everything = result.generation[len("cfg-") :].split("-")
        return reload, everything

    digests = {"/ssl/a.pem": "a1", "/ssl/all/b.pem": "b1", "/ssl/o d.pem": "d1"}
    reload, everything = parts("x.example", digests)
    for hosts, changed in (
        ("y.example", {}),
        ("x.example", {"/ssl/a.pem": "a2"}),
        ("x.example", {"/ssl/all/b.pem": "b2"}),
    ):
        other = parts(hosts, {**digests, **changed})
        assert (other[0] == reload, other[1] == everything) == (True, False)
    # Other files, other kinds of hosts, what commands cannot name, and files that other lines name as well.
    assert parts("x.example", {**digests, "/ssl/all/c.pem": "c1"})[0] != reload
    assert parts("*.example", digests)[0] != reload
    assert parts("x.example", {**digests, "/ssl/o d.pem": "d2"})[0] != reload
    named = parts("x.example", digests, ["/ssl/a.pem"])
    assert parts("x.example", {**digests, "/ssl/a.pem": "a2"}, ["/ssl/a.pem"])[0] != named[0]
