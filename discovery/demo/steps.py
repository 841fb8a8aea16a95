"""The steps of the demo and the output of each step."""

import json
import shlex
import shutil
import socket
import sys
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from discovery.demo.processes import DemoProcess, Interrupted, Stage, StepFailedError
from discovery.demo.traffic import Traffic, ask
from discovery.errors import ConfigError
from discovery.hosting import loading as plugins
from discovery.system.embedded import EmbeddedEtcd, find_program
from discovery.system.terminal import shows_colours

_HTTP_SECONDS = 5.0
"""Seconds for an answer on this machine, which takes milliseconds."""
_SPREAD = 60
"""Requests that show the distribution of requests among the backends."""
_MEANWHILE = 300
"""Requests after the move of a backend: more than a second of traffic."""


def run_demo(*, leave: bool) -> int:
    """Run the demo, and return the exit code. With `leave`, end after the last step, otherwise at a signal.

    Raises ConfigError for a missing program or plugin, CannotStartError or StepFailedError when a step fails. No
    process, socket or file stays behind in any case.
    """
    _require_parts()
    with Stage() as stage:
        demo = _Demo(stage)
        finished = False
        try:
            demo.start_registry()
            demo.start_daemon()
            demo.start_backends()
            demo.move_a_backend()
            finished = True
            if not leave:
                demo.invite()
                stage.wait(lambda: False, "the end", timeout=None)
        except Interrupted:
            _say()
            return 0 if finished else 130
        finally:
            _say("Stopping everything; nothing stays behind.")
    return 0


def _require_parts() -> None:
    missing = []
    for program in ("etcd", "haproxy"):
        try:
            find_program(program)
        except ConfigError:
            missing.append(program)
    if missing:
        raise ConfigError(
            f"the demo needs {' and '.join(missing)}: `pip install '.[demo]'` in a checkout,"
            " or apt install etcd-server haproxy"
        )
    if "haproxy" not in plugins.installed():
        raise ConfigError("the demo needs the haproxy plugin: `pip install ./plugins/haproxy` in a checkout")


class _Demo:
    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._web_port, self._admin_port = _free_ports(2)
        self._url = ""
        self._backends: dict[str, tuple[DemoProcess, DemoProcess]] = {}  # web server and registration

    def start_registry(self) -> None:
        _step(1, "Start etcd, the registry where backends are recorded")
        self._etcd = self._stage.enter(EmbeddedEtcd())
        self._url = self._etcd.url
        _fact(f"etcd answers at {self._url}")

    def start_daemon(self) -> None:
        _step(2, "Start discovery with the haproxy plugin; it starts HAProxy and keeps it in step with etcd")
        arguments = [
            *("run", "--plugin", "haproxy", "--registry", self._url),
            *("--set", f"haproxy.services.web.bind=127.0.0.1:{self._web_port}"),
            *("--admin", f"127.0.0.1:{self._admin_port}"),
        ]
        _command(*arguments)
        run, state = self._stage.directory / "run", self._stage.directory / "state"
        self._stage.start_python(
            "discovery-run", "-m", "discovery", *arguments, "--run-dir", str(run), "--state-dir", str(state)
        )
        self._stage.wait(lambda: self._request()[1] == "status 503", "HAProxy answers 503, having no backend yet")
        _fact(f"http://127.0.0.1:{self._web_port}/ answers 503: there is no backend yet")

    def start_backends(self) -> None:
        _step(3, "Start three small web servers and register each; HAProxy is not touched by hand")
        self._start_backends("blue", "green", "red")
        self._wait_for_haproxy({"blue", "green", "red"})
        answers: Counter[str] = Counter()
        for _ in range(_SPREAD):
            backend, failure = self._request()
            if failure:
                raise StepFailedError(f"a request to HAProxy failed: {failure}")
            answers[backend] += 1
        if len(answers) != len(self._backends):
            raise StepFailedError(f"not every backend was asked: {_counted(answers)}")
        _fact(f"{_SPREAD} requests through HAProxy were answered: {_counted(answers)}")

    def move_a_backend(self) -> None:
        _step(4, "Under a steady stream of requests, take one backend away and start one elsewhere")
        with Traffic(self._web_port) as traffic:
            self._stage.wait(lambda: traffic.total >= _SPREAD, "requests are answered")
            began = time.monotonic()
            server, registration = self._backends.pop("blue")
            self._stage.stop(registration)
            self._wait_for_haproxy({"green", "red"})
            _fact(f"blue is withdrawn; HAProxy is without it {_ms(began)} after SIGTERM to `register`")
            if status := self._stage.stop(server):
                raise StepFailedError(f"the web server blue ended with status {status}")
            _fact("blue's web server has ended, after it answered its last requests")
            self._start_backends("yellow")
            registration = self._backends["yellow"][1]
            self._stage.wait(partial(registration.has_written, "registered"), "yellow is registered")
            began = time.monotonic()
            self._stage.wait(lambda: traffic.answers["yellow"] > 0, "yellow answers a request")
            _fact(f"yellow, on another port, answers requests {_ms(began)} after it was registered")
            self._wait_for_haproxy({"green", "red", "yellow"})
            enough = traffic.total + _MEANWHILE
            self._stage.wait(lambda: traffic.total >= enough, "more requests are answered")
        answers, failures = traffic.answers, traffic.failures
        if failures:
            raise StepFailedError(f"{len(failures)} of {traffic.total} requests failed, the first: {failures[0]}")
        _fact(f"{traffic.total} requests during the move, 0 failed: {_counted(answers)}")

    def invite(self) -> None:
        _say()
        _say("The demo runs on until Ctrl-C. Try:")
        lines = [
            f"curl http://127.0.0.1:{self._web_port}/          (or in a browser; again and again)",
            f"curl http://127.0.0.1:{self._admin_port}/api/consumers      (also /api/snapshot, /metrics, /readyz)",
            f"{_discovery()} services --registry {self._url}",
            f"{_discovery()} watch --registry {self._url}",
        ]
        with suppress(ConfigError):  # some systems have etcdctl in a separate package
            etcdctl = f"ETCDCTL_API=3 {shlex.quote(str(find_program('etcdctl')))} --endpoints {self._etcd.endpoint}"
            lines += [
                f"{etcdctl} get --prefix /services",
                f"{etcdctl} del /services/web/red          (its registration puts it back)",
            ]
        for line in lines:
            _say(f"  {line}")

    def _start_backends(self, *names: str) -> None:
        servers = {name: self._stage.start_python(name, "-m", "discovery.demo.webserver", name) for name in names}
        for name, server in servers.items():
            self._stage.wait(partial(server.has_written, "\n"), f"the web server {name} listens")
            address = f"127.0.0.1:{int(server.output)}"
            arguments = ["register", "web", address, "--id", name, "--registry", self._url]
            _command(*arguments)
            registration = self._stage.start_python(
                f"register-{name}", "-m", "discovery", *arguments, "--run-dir", str(self._stage.directory / "run")
            )
            self._backends[name] = (server, registration)

    def _wait_for_haproxy(self, backends: set[str]) -> None:
        """Wait until the haproxy plugin has applied a snapshot with exactly these backends."""

        def follows() -> bool:
            snapshot = self._admin("/api/snapshot")
            ids = {backend["id"] for backend in snapshot["services"].get("web", ())}
            applied = [each["applied_revision"] for each in self._admin("/api/consumers")["consumers"]]
            return ids == backends and applied == [snapshot["revision"]]

        def follows_or_not_yet() -> bool:
            with suppress(OSError, HTTPException, LookupError, ValueError):
                return follows()
            return False

        self._stage.wait(follows_or_not_yet, f"HAProxy serves {', '.join(sorted(backends)) or 'nothing'}")

    def _request(self) -> tuple[str, str]:
        connection = HTTPConnection("127.0.0.1", self._web_port, timeout=_HTTP_SECONDS)
        try:
            return ask(connection)
        finally:
            connection.close()

    def _admin(self, path: str) -> Any:
        connection = HTTPConnection("127.0.0.1", self._admin_port, timeout=_HTTP_SECONDS)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


def _free_ports(count: int) -> list[int]:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports


def _discovery() -> str:
    """Return the shell words that run this `discovery` on this machine."""
    script = sys.argv[0]
    if not script.endswith("/discovery"):
        return f"{shlex.quote(sys.executable)} -m discovery"
    found = shutil.which("discovery")
    return "discovery" if found is not None and Path(found).samefile(script) else shlex.quote(script)


def _ms(began: float) -> str:
    return f"{(time.monotonic() - began) * 1000:.0f} ms"


def _counted(answers: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(answers.items()))


def _step(number: int, text: str) -> None:
    bold = shows_colours(sys.stdout)
    _say()
    _say(f"\x1b[1m{number}. {text}\x1b[0m" if bold else f"{number}. {text}")


def _command(*arguments: str) -> None:
    _say(f"   $ {_discovery()} {shlex.join(arguments)}")


def _fact(text: str) -> None:
    _say(f"   {text}")


def _say(text: str = "") -> None:
    print(text, flush=True)
