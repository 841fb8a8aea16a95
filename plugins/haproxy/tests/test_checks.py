"""Health checks: how long a backend that dies or hangs stays up, and which option decides."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Event, Thread
from typing import Any

import pytest
from haproxy_web import Fetch, RunHAProxy

from discovery.testing import backend, eventually_sync, free_port, snapshot, within
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.rendering.render import Runtime, render

SLACK_SECONDS = 1.5
"""Time in seconds from a check's failure until the test knows of it on a busy machine."""


def text(**options: Any) -> str:
    """Return the configuration of the service `web` with these options."""
    return configuration({"services": {"web": options}})


def configuration(config: dict[str, Any], port: int = 80) -> str:
    """Return the configuration for one backend of the service `web`."""
    return render(HAProxyConfig.model_validate(config), snapshot(backend(port=port)), Runtime(), {}).text


@contextmanager
def server(hangs: Event) -> Iterator[int]:
    """Serve HTTP on a port until the block ends; from `hangs` on accept connections and never answer."""

    def serve() -> None:
        with ExitStack() as kept:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                kept.enter_context(client)
                if not hangs.is_set():
                    client.recv(1000)
                    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    client.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_backend_that_hangs_is_down_after_three_intervals(run: RunHAProxy, fetch: Fetch) -> None:
    """Issue 10, A6: a backend that hung was down after 20 s, not after the 6 s of the README."""
    stats = free_port()
    url = f"http://127.0.0.1:{stats}/;csv"

    def status() -> str:
        (line,) = (line for line in fetch(url).body.splitlines() if line.startswith("web,127.0.0.1:"))
        return line.split(",")[17]

    hangs = Event()
    with server(hangs) as port:
        options = {"bind": f"127.0.0.1:{free_port()}", "check": {"path": "/"}}
        run(configuration({"services": {"web": options}, "stats": f"127.0.0.1:{stats}"}, port), url)
        eventually_sync(lambda: status() == "UP", "the backend to be up")
        hangs.set()
        start = time.monotonic()
        eventually_sync(lambda: status() == "DOWN", "the backend to be down", timeout=within(30))
        assert time.monotonic() - start < 6 + within(SLACK_SECONDS)


@pytest.mark.parametrize(
    ("interval", "timeout", "fast"),
    [("2s", "1s", "500ms"), ("500ms", "250ms", "125ms"), ("1m", "5s", "15s"), ("1ms", "100ms", "1ms")],
)
def test_the_time_for_an_answer_follows_from_the_interval(interval: str, timeout: str, fast: str) -> None:
    rendered = text(check={"interval": interval})
    assert f"    timeout check {timeout}\n" in rendered
    assert f"inter {interval} fastinter {fast} fall" in rendered


def test_a_time_for_an_answer_that_is_set_is_kept() -> None:
    of_the_service = text(timeouts={"check": "5s"})
    assert of_the_service.partition("backend web")[2].count("timeout check 5s") == 1
    assert of_the_service.partition("backend web")[2].count("timeout check") == 1
    of_the_instance = configuration({"services": {"web": {}}, "timeouts": {"check": "5s"}})
    assert of_the_instance.count("timeout check 5s") == of_the_instance.count("timeout check") == 1
    assert "timeout check" not in text(check=False).partition("backend web")[2]
