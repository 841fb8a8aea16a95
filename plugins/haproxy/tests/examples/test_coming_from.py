"""The pages for those who come from other programs: the configurations run, and take the requests that they promise."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from daemons import Starter
from haproxy_example import TIMEOUT, Example
from stand_ins import Servers
from web_client import Certificates, get

from discovery.testing import eventually_sync

pytestmark = pytest.mark.warm

PAGES = Path(__file__).parents[4] / "docs" / "coming-from"
SHOP = "shop.example.com"


class Page:
    """A page: its configuration, and the records that its commands register, as key and value."""

    def __init__(self, name: str) -> None:
        text = (PAGES / f"{name}.md").read_text()
        (self.configuration,) = (
            block for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL) if "[registry]" in block
        )
        commands = re.findall(r"^(?:discovery register|etcdctl put).*", text, re.MULTILINE)
        self.commands = [shlex.split(line) for line in commands]

    def register(self, example: Example, servers: Servers) -> None:
        """Register, as the commands do, a web server for each record. The server answers with the service and path."""
        for command in self.commands:
            service, name, labels = self._record(command)

            def answer(path: str, service: str = service) -> tuple[int, str]:
                return 200, f"{service} {path}"

            address = servers.http("127.0.0.1:0", answer).address
            if command[0] == "etcdctl":
                example.write(f"{service}/{name}", address)
            else:
                example.register(service, name, address, **labels)

    def _record(self, command: list[str]) -> tuple[str, str, dict[str, str]]:
        """Return the service, the id and the labels."""
        match command[1:]:
            case ["put", key, _]:
                service, name = key.removeprefix("/services/").split("/")
                return service, name, {}
            case ["register-container", container, _, service]:
                return service, container, {}
            case ["register", service, address, *options]:
                given = dict(zip(options[::2], options[1::2], strict=True))
                label, _, value = given.get("--label", "").partition("=")
                return service, given.get("--id", address), {label: value} if label else {}
        raise AssertionError(command)


RunPage = Callable[[str], Example]


@pytest.fixture
def run_page(
    start_daemon: Starter, haproxy: Path, tmp_path: Path, servers: Servers, certificates: Certificates
) -> RunPage:
    """Return a function that runs the configuration of a page with the records of its commands."""

    def run(name: str) -> Example:
        page = Page(name)
        certificates.pem(SHOP, f"www.{SHOP}")
        place = "/etc/discovery/certificates"
        replaced = {place: certificates.directory} if place in page.configuration else {}
        example = Example(page.configuration, start_daemon, haproxy, tmp_path, replaced)
        page.register(example, servers)
        example.run()
        return example

    return run


def wait_for_answer(port: int, answer: str) -> None:
    """Wait until a request gets this answer."""
    eventually_sync(lambda: get(port).body == answer, answer, TIMEOUT)


def test_confd(run_page: RunPage) -> None:
    wait_for_answer(run_page("confd").ports[80], "web /")


def test_consul_template(run_page: RunPage) -> None:
    edge = run_page("consul-template")
    wait_for_answer(edge.ports[80], "web /")
    wait_for_answer(edge.ports[5432], "pg /")


def test_easyhaproxy(run_page: RunPage, certificates: Certificates) -> None:
    edge = run_page("easyhaproxy")
    wait_for_answer(edge.ports[3306], "mysql /")
    tls = certificates.client()
    assert [get(edge.ports[443], host=host, tls=tls).body for host in (SHOP, f"www.{SHOP}")] == ["shop /"] * 2
    plain = get(edge.ports[80], "/x", host=SHOP)
    assert (plain.status, plain.headers["Location"]) == (308, f"https://{SHOP}/x")
    assert get(edge.ports[80], host="other.example.com").status == 503


def test_traefik(run_page: RunPage, certificates: Certificates) -> None:
    edge, tls = run_page("traefik"), certificates.client()
    shop = get(edge.ports[443], "/", host=SHOP, tls=tls)
    assert (shop.body, shop.headers["Strict-Transport-Security"]) == ("shop /", "max-age=31536000")
    assert re.fullmatch("shop=[0-9a-f]+; path=/; HttpOnly; Secure; SameSite=Lax", shop.headers["Set-Cookie"])
    paths = {"/api": "api /", "/api/a/b?c=d": "api /a/b?c=d", "/apis": "shop /apis"}
    assert {path: get(edge.ports[443], path, host=SHOP, tls=tls).body for path in paths} == paths
    assert get(edge.ports[80], "/api", host=SHOP).headers["Location"] == f"https://{SHOP}/api"
