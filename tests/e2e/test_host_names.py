"""Host names of backends, as the core looks them up for every consumer: with a hosts file and a name server of its own.

Point 8.
"""

import json
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from daemons import DISCOVERY, Daemon, Starter
from naming import Machine, machine

from discovery.testing import eventually_sync, free_port, within

pytestmark = pytest.mark.warm

__all__ = ["machine"]

TIMEOUT = 60.0
WITNESS = """
import json
from discovery import Consumer, PluginConfig, hookimpl


class Witness(Consumer[PluginConfig]):
    applies = 0

    async def apply(self, update):
        self.applies += 1
        found = {each.id: update.addresses_of(each) for each in update.snapshot.backends()}
        hosts = {each.id: each.host for each in update.snapshot.backends()}
        told = {"revision": update.snapshot.revision, "applies": self.applies, "addresses": found, "hosts": hosts}
        (self.context.run_dir / "told.new").write_text(json.dumps(told))
        (self.context.run_dir / "told.new").replace(self.context.run_dir / "told")

    async def preview(self, update):
        return "".join(f"{each.id}={','.join(update.addresses_of(each))}\\n" for each in update.snapshot.backends())


@hookimpl
def discovery_register_consumers(register):
    register("witness", Witness)
"""

Registry = tuple[str, Callable[[str, str], None]]
Install = Callable[..., None]


def told(daemon: Daemon) -> dict[str, Any]:
    """What the consumer was given last."""
    document: dict[str, Any] = json.loads((daemon.run_dir / "witness" / "told").read_text())
    return document


def leads_to(daemon: Daemon, **addresses: list[str]) -> None:
    """Wait until the backends of these ids have these addresses."""
    eventually_sync(
        lambda: {id_: told(daemon)["addresses"].get(id_) for id_ in addresses} == addresses, f"{addresses}", TIMEOUT
    )


@contextmanager
def listening(host: str, port: int = 0) -> Iterator[int]:
    """Something that takes connections at this address alone."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port or free_port()), family=family, backlog=128) as server:
        yield server.getsockname()[1]


@pytest.fixture
def witness(
    install_plugin: Install, start_daemon: Starter, file_registry: Registry, machine: Machine
) -> Callable[[], Daemon]:
    install_plugin("witness", WITNESS)

    def start() -> Daemon:
        return start_daemon("--registry", file_registry[0], "--plugin", "witness", under=machine.under)

    return start


@pytest.fixture
def with_db(witness: Callable[[], Daemon], file_registry: Registry, machine: Machine) -> Callable[[], Daemon]:
    """Starts a daemon that follows db.test, which is 127.0.0.5."""

    def start() -> Daemon:
        machine.server.means = {"db.test": ["127.0.0.5"]}
        file_registry[1]("web/db", "db.test:80")
        daemon = witness()
        leads_to(daemon, db=["127.0.0.5"])
        return daemon

    return start


@pytest.mark.costly
def test_names_are_looked_up_as_the_machine_does_and_followed(
    witness: Callable[[], Daemon], file_registry: Registry, machine: Machine
) -> None:
    """Point 8: hosts file, search domain, both families; a changed address is an apply and not a revision."""
    _, write = file_registry
    machine.hosts("127.0.0.7 in-hosts")
    machine.server.means = {"searched.corp.test": ["127.0.0.8"], "both.test": ["127.0.0.9", "::1"]}
    write("web/hosts", "in-hosts:80")
    write("web/searched", "searched:80")
    write("web/both", "both.test:80")
    write("web/literal", "10.0.0.1:80")
    write("web/same", "in-hosts:80")
    daemon = witness()
    leads_to(daemon, same=["127.0.0.7"], hosts=["127.0.0.7"], searched=["127.0.0.8"], literal=["10.0.0.1"])
    eventually_sync(lambda: sorted(told(daemon)["addresses"]["both"]) == ["127.0.0.9", "::1"], "both", TIMEOUT)
    before = told(daemon)
    assert before["hosts"]["searched"] == "searched"
    machine.hosts("127.0.0.17 in-hosts")
    machine.server.means["searched.corp.test"] = ["127.0.0.18"]
    leads_to(daemon, hosts=["127.0.0.17"], searched=["127.0.0.18"])
    assert told(daemon)["revision"] == before["revision"]
    assert daemon.get("/api/snapshot")[1]["addresses"]["in-hosts:80"] == ["127.0.0.17"]
    assert daemon.stop() == 0


def test_an_address_that_takes_connections_comes_first_and_rotating_answers_change_nothing(
    witness: Callable[[], Daemon], file_registry: Registry, machine: Machine
) -> None:
    """Point 8: the reachable address is preferred, for each port by itself."""
    _, write = file_registry
    with listening("127.0.0.1") as four, listening("::1") as six:
        write("web/four", f"localhost:{four}")
        write("web/six", f"localhost:{six}")
        daemon = witness()
        leads_to(daemon, four=["127.0.0.1", "::1"], six=["::1", "127.0.0.1"])
    with listening("127.0.0.1", six):  # restarted on the other one
        leads_to(daemon, six=["127.0.0.1", "::1"])
    machine.server.means = {"turns.test": ["127.0.0.1", "127.0.0.2", "127.0.0.3"]}
    write("web/turns", "turns.test:9")
    eventually_sync(lambda: len(told(daemon)["addresses"].get("turns", ())) == 3, "three addresses", TIMEOUT)
    before = told(daemon)
    machine.server.means = {"turns.test": ["127.0.0.2", "127.0.0.3", "127.0.0.1"]}
    machine.server.asked.clear()
    eventually_sync(lambda: machine.server.asked.count("turns.test") > 2, "another lookup", TIMEOUT)
    assert told(daemon) == before


@pytest.mark.costly
def test_an_outage_of_the_name_server_takes_nothing_away_and_is_told(
    with_db: Callable[[], Daemon], file_registry: Registry, machine: Machine
) -> None:
    """Point 8: the last answer stands; a name that cannot be looked up is a problem of its backend."""
    _, write = file_registry
    daemon = with_db()
    assert daemon.get("/api/snapshot")[1]["unresolved"] == []
    machine.server.dead = True
    write("web/late", "late.test:80")
    write("web/literal", "10.0.0.1:80")
    leads_to(daemon, literal=["10.0.0.1"], late=[], db=["127.0.0.5"])

    def problems() -> dict[str, str]:
        return {each["id"]: each["problem"] for each in daemon.get("/api/snapshot")[1]["unresolved"]}

    eventually_sync(lambda: "127.0.0.5 stands" in problems().get("db", ""), "the stale answer to be told", TIMEOUT)
    eventually_sync(lambda: "no address for 'late.test':" in problems().get("late", ""), "the other as well", TIMEOUT)
    status, health = daemon.get("/healthz")
    assert status == 200
    assert "late.test" in health["unresolved"]["web/late"]
    assert "\ndiscovery_unresolved_backends 2.0\n" in daemon.get("/metrics")[1]
    assert daemon.log.count("host=late.test") == 1
    machine.server.means = {"db.test": ["127.0.0.6"], "late.test": ["127.0.0.4"]}
    machine.server.dead = False
    leads_to(daemon, db=["127.0.0.6"], late=["127.0.0.4"])
    eventually_sync(lambda: not problems(), "no problem to be left", TIMEOUT)
    machine.server.means = {}  # which is not what the registry says: it still has them
    eventually_sync(lambda: set(problems()) == {"db", "late"}, "names that are gone to be told", TIMEOUT)
    assert told(daemon)["addresses"]["db"] == ["127.0.0.6"]


@pytest.mark.costly
def test_a_restart_during_an_outage_loses_nothing(
    with_db: Callable[[], Daemon], witness: Callable[[], Daemon], machine: Machine
) -> None:
    """Point 8: the last answer stands, as the last snapshot does; whether the daemon was stopped or killed."""
    daemon = with_db()
    (kept,) = eventually_sync(
        lambda: [*(daemon.run_dir.parent / "state").glob("names-*.json")], "a file of names", TIMEOUT
    )
    eventually_sync(lambda: json.loads(kept.read_bytes()) == {"db.test": ["127.0.0.5"]}, "it to be kept", TIMEOUT)
    machine.server.dead = True
    daemon.stop(signal.SIGKILL)
    another = witness()
    leads_to(another, db=["127.0.0.5"])
    assert another.stop() == 0
    machine.server.dead = False
    machine.server.means = {"db.test": ["127.0.0.6"]}
    third = witness()
    leads_to(third, db=["127.0.0.6"])
    assert third.stop() == 0
    assert json.loads(kept.read_bytes()) == {"db.test": ["127.0.0.6"]}
    kept.write_text("[1")
    machine.server.dead = True
    broken = witness()
    leads_to(broken, db=[])
    assert "the remembered addresses cannot be read" in broken.log


@pytest.mark.costly
def test_daemons_of_two_registries_that_share_a_state_directory_keep_their_names_apart(
    witness: Callable[[], Daemon], start_daemon: Starter, file_registry: Registry, machine: Machine, tmp_path: Path
) -> None:
    """Point 8: what one of them writes does not take from the other what its restart in an outage needs."""
    _, write = file_registry
    machine.server.means = {"db.test": ["127.0.0.5"], "other.test": ["127.0.0.6"]}
    write("web/db", "db.test:80")
    daemon = witness()
    leads_to(daemon, db=["127.0.0.5"])
    assert daemon.stop() == 0
    another_registry = tmp_path / "another-registry"
    (another_registry / "web").mkdir(parents=True)
    (another_registry / "web" / "other").write_text("other.test:80")
    neighbour = start_daemon("--registry", f"file://{another_registry}", "--plugin", "witness", under=machine.under)
    leads_to(neighbour, other=["127.0.0.6"])
    assert neighbour.stop() == 0
    machine.server.dead = True
    leads_to(witness(), db=["127.0.0.5"])


@pytest.mark.costly
def test_a_thousand_names_without_a_name_server_pile_up_nothing(
    witness: Callable[[], Daemon], file_registry: Registry, machine: Machine
) -> None:
    """Point 8: no thread pile-up, no lost server, and nobody waits for the names that do not answer."""
    _, write = file_registry
    machine.server.means = {"living.test": ["127.0.0.5"]}
    write("web/living", "living.test:80")
    daemon = witness()
    leads_to(daemon, living=["127.0.0.5"])
    machine.server.dead = True
    for number in range(1000):
        write(f"dead/d{number}", f"dead-{number}.test:80")
    eventually_sync(lambda: len(told(daemon)["addresses"]) == 1001, "all of them to be applied", TIMEOUT)
    write("web/literal", "10.0.0.1:80")
    leads_to(daemon, literal=["10.0.0.1"], living=["127.0.0.5"])
    threads = len(list(Path(f"/proc/{daemon.process.pid}/task").iterdir()))
    assert threads < 80
    machine.hosts("127.0.0.7 in-hosts")
    write("web/hosts", "in-hosts:80")
    leads_to(daemon, hosts=["127.0.0.7"])
    assert told(daemon)["addresses"]["living"] == ["127.0.0.5"]
    assert daemon.log.count("cannot be looked up") < 300
    assert daemon.stop() == 0


@pytest.mark.costly
def test_one_pass_looks_names_up_as_well(
    install_plugin: Install, start_daemon: Starter, file_registry: Registry, machine: Machine
) -> None:
    """Point 8: --dry-run and --once."""
    url, write = file_registry
    install_plugin("witness", WITNESS.replace("applies = 0", "applies = 0\n    resident = False"))
    machine.hosts("127.0.0.7 in-hosts")
    write("web/hosts", "in-hosts:80")
    write("web/nowhere", "nowhere.test:80")
    preview = start_daemon("--registry", url, "--plugin", "witness", "--dry-run", under=machine.under)
    assert preview.process.wait(within(TIMEOUT)) == 0
    assert "hosts=127.0.0.7\nnowhere=\n" in preview.log
    assert "web/nowhere: no address for 'nowhere.test'" in preview.log
    once = start_daemon("--registry", url, "--plugin", "witness", "--once", under=machine.under)
    assert once.process.wait(within(TIMEOUT)) == 0
    assert told(once)["addresses"] == {"hosts": ["127.0.0.7"], "nowhere": []}


def test_services_names_what_cannot_be_looked_up(file_registry: Registry, machine: Machine) -> None:
    """Point 8."""
    url, write = file_registry
    machine.hosts("127.0.0.7 in-hosts")
    write("web/hosts", "in-hosts:80")
    write("web/nowhere", "nowhere.test:80")
    listing = [*machine.under, *DISCOVERY, "services", "--registry", url]
    told = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.splitlines()
    assert told[-2] == "Host names that this machine cannot look up (1):"
    assert told[-1].startswith("  web/nowhere: no address for 'nowhere.test': ")
