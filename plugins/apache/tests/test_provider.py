"""The provider in the core's runner, with real local Apaches and without Docker."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import structlog

from discovery import Backend, State
from discovery.providing.runner import ProviderInstance, ProviderRunner
from discovery.system.lookups import RememberedLookups
from discovery.testing import eventually_sync, within
from discovery_apache.config import ApacheConfig
from discovery_apache.provider import ApacheProvider

from .conftest import Httpd

MakeHttpd = Callable[..., Httpd]
QUICK = {"interval": 0.1, "timeout": 3}
"""A check of a server that answers: the timeout is long, because a loaded machine lets a server answer late."""


class Provided:
    """A running provider, and the backends that the provider had registered."""

    def __init__(self, run_dir: Path, config: dict[str, Any]) -> None:
        """Start it."""
        self.published: list[dict[str, Backend]] = []
        self._lock = threading.Lock()
        instance = ProviderInstance("apache", "apache", ApacheProvider, ApacheConfig.model_validate(config))
        self.runner = ProviderRunner(instance, run_dir, structlog.get_logger(), self._publish, RememberedLookups())
        self.runner.start()

    def _publish(self, backends: tuple[Backend, ...]) -> None:
        with self._lock:
            self.published.append({backend.service: backend for backend in backends})

    @property
    def now(self) -> dict[str, Backend]:
        """The latest backends by service. Raises LookupError before the first."""
        return self.published[-1]

    def stop(self) -> None:
        """End it."""
        self.runner.stop()
        assert asyncio.run(self.runner.join(within(30)))


@pytest.fixture
def provide(tmp_path: Path) -> Iterator[Callable[..., Provided]]:
    """Return a function that runs a provider with options until the end of the test."""
    with ExitStack() as stack:

        def start(**config: Any) -> Provided:
            provided = Provided(tmp_path / "run", config)
            stack.callback(provided.stop)
            return provided

        yield start


def local(server: Httpd, **options: Any) -> dict[str, Any]:
    return {"status": {"page": server.url(), **QUICK}, "address": f"127.0.0.1:{server.port}", **options}


def test_local_servers_are_registered_while_they_answer(httpd: MakeHttpd, provide: Callable[..., Provided]) -> None:
    one, two = httpd(), httpd(started=False)
    labels = {"zone": "eu"}
    provided = provide(httpd={"one": local(one, labels=labels, weight=5, id="x"), "two": local(two, service="web")})
    eventually_sync(lambda: provided.now.keys() == {"one"})
    assert provided.now["one"] == Backend("one", "x", "127.0.0.1", one.port, 5, labels=labels)
    two.start()
    eventually_sync(lambda: provided.now.keys() == {"one", "web"})
    assert provided.now["web"].id.endswith(f":two:{two.port}")
    one.signal("graceful-stop")
    eventually_sync(lambda: provided.now.keys() == {"web"})
    one.wait_ended()
    one.start()
    eventually_sync(lambda: provided.now.keys() == {"one", "web"})


def test_a_full_server_drains_until_workers_are_idle_again(httpd: MakeHttpd, provide: Callable[..., Provided]) -> None:
    server = httpd()
    provided = provide(httpd={"web": local(server)})
    eventually_sync(lambda: provided.now["web"].state is State.ACTIVE)
    for _ in range(server.workers):
        server.begin()
    eventually_sync(lambda: provided.now["web"].state is State.DRAINING)
    server.release()
    eventually_sync(lambda: provided.now["web"].state is State.ACTIVE)


def test_the_weight_follows_the_idle_workers(httpd: MakeHttpd, provide: Callable[..., Provided]) -> None:
    server = httpd(threads=10)
    page = {"page": server.url(), "interval": 0.1, "timeout": 2, "weight_interval": 0.5}
    provided = provide(weight="load", httpd={"web": local(server, status=page)})
    eventually_sync(lambda: provided.now["web"].weight == 100)
    for _ in range(5):
        server.begin()
    eventually_sync(lambda: provided.now["web"].weight <= 50)
    server.release()
    eventually_sync(lambda: provided.now["web"].weight >= 99)


def test_an_additional_check_counts(httpd: MakeHttpd, provide: Callable[..., Provided]) -> None:
    server = httpd()
    wrong = {"path": "/not-there", "status": "200", **QUICK}
    provided = provide(httpd={"right": local(server), "wrong": local(server, check=wrong)})
    eventually_sync(lambda: provided.now.keys() == {"right"})

    def reasons() -> list[str]:
        return [candidate.detail for candidate in provided.runner.status.candidates.values()]

    eventually_sync(lambda: any("/not-there: status 404" in reason for reason in reasons()))


def test_a_server_on_this_machines_own_address(httpd: MakeHttpd, provide: Callable[..., Provided]) -> None:
    server = httpd()
    options = {"status": {"page": server.url(), **QUICK}, "address": server.port}
    provided = provide(address="10.1.2.3", httpd={"web": options})
    eventually_sync(lambda: provided.now["web"].address == f"10.1.2.3:{server.port}")


def test_local_servers_do_not_wait_for_docker(
    httpd: MakeHttpd, provide: Callable[..., Provided], tmp_path: Path
) -> None:
    socket = tmp_path / "docker.sock"
    provided = provide(docker={"url": f"unix://{socket}"}, httpd={"web": local(httpd())})
    eventually_sync(lambda: provided.now.keys() == {"web"})
    problems = eventually_sync(lambda: provided.runner.status.problems)
    assert problems.keys() == {"docker"}
    assert str(socket) in problems["docker"]


def test_an_unreachable_engine_is_an_error_and_not_an_empty_inventory(
    provide: Callable[..., Provided], tmp_path: Path
) -> None:
    provided = provide(docker={"url": f"unix://{tmp_path}/docker.sock"})
    error = eventually_sync(lambda: provided.runner.status.error)
    assert "docker.sock" in str(error)
    assert provided.published == []


def test_two_servers_with_the_same_id_are_a_problem(httpd: MakeHttpd, provide: Callable[..., Provided]) -> None:
    server = httpd()
    same = {"service": "web", "id": "same"}
    provided = provide(httpd={"one": local(server, **same), "two": local(server, **same)})
    eventually_sync(lambda: provided.now.keys() == {"web"})
    assert provided.runner.status.problems == {
        "httpd two": "web/same is already registered for httpd one: choose a different id"
    }
