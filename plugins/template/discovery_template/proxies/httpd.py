"""The consumer `httpd`: Apache httpd with mod_proxy_balancer follows the registry."""

import os
import re
import signal
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

from discovery import ApplyError, Context, PluginConfig, describe, join_host_port, split_host_port
from discovery.toolkit import Stopping, run_command
from discovery_template.options.proxy import WAY_OUT, CheckConfig, ProxyConfig, ServiceConfig, binds_of
from discovery_template.printing.environment import Templates
from discovery_template.printing.views import BackendView
from discovery_template.proxies.consumer import ANSWER_SECONDS, CHECK_SECONDS, ProxyConsumer
from discovery_template.proxies.overlaps import overlap
from discovery_template.proxies.plan import Plan
from discovery_template.running.commands import examine
from discovery_template.running.requests import request

_BALANCE = {"roundrobin": "byrequests", "static-rr": "byrequests", "leastconn": "bybusyness"}
"""Algorithms by the names of HAProxy."""
_CHECK_METHODS = ("GET", "HEAD", "OPTIONS")
_OPTIONS_OF_CHECK = {"host": None, "status": None, "send": None, "expect": None, "init_state": "up", "port": None}
"""Options of a check that httpd lacks, and their defaults."""
_MODULE_DIRECTORIES = (
    "/usr/lib/apache2/modules", "/usr/lib64/httpd/modules", "/usr/lib/httpd/modules", "/usr/local/apache2/modules",
)  # fmt: skip
_ROOT = re.compile(r'HTTPD_ROOT="([^"]+)"')
_MOST_FACTOR = 100
"""The largest load factor of httpd; a weight of the registry is at most 256."""
_VERSION_SECONDS = 10.0
"""Seconds for `httpd -V`, which takes milliseconds."""
_EVERY_IPV4 = "0.0.0.0"  # noqa: S104 - compared alone
_EVERY_ADDRESS = {_EVERY_IPV4: "127.0.0.1", "::": "::1"}
"""Where to ask what listens everywhere."""


class HttpdConfig(ProxyConfig):
    """Options of an instance of the consumer `httpd`."""

    modules: Path | None = None
    """Directory of httpd's modules. Default: where distributions have the directory."""

    def fault_of(self, service: ServiceConfig) -> str | None:
        """Return what httpd cannot do."""
        if service.mode == "tcp":
            return f'httpd has no mode = "tcp": {WAY_OUT}, or the consumers nginx or tcpproxy'
        if service.balance not in _BALANCE:
            return f"httpd has no balance {service.balance!r}: choose {', '.join(_BALANCE)}, or {WAY_OUT}"
        for path in service.path_prefix:
            if re.search(r"[$%]", path):
                return f"path_prefix {path!r} has a '$' or '%', which httpd compares after decoding: {WAY_OUT}"
        return None

    def fault_of_check(self, check: CheckConfig) -> str | None:
        """Return what the checks of httpd cannot do."""
        for name, default in _OPTIONS_OF_CHECK.items():
            if getattr(check, name) != default:
                return f"the option {name!r} of 'check' is unknown to httpd: leave the option out, or {WAY_OUT}"
        if check.path is not None and check.method not in _CHECK_METHODS:
            return f"httpd checks by {', '.join(_CHECK_METHODS)}, not by {check.method}: choose one of these"
        return None

    def model_post_init(self, context: object) -> None:
        """Refuse hosts that httpd cannot tell apart as the precedence says."""
        if fault := overlap(self):
            raise ValueError(fault)


class HttpdConsumer(ProxyConsumer[HttpdConfig]):
    """Renders httpd.conf, and reloads Apache httpd."""

    Config: ClassVar[type[PluginConfig]] = HttpdConfig
    programs = ("apache2", "httpd")
    file_name = "httpd.conf"
    stopping = Stopping(signal.SIGWINCH, 6.0)

    def __init__(self, config: HttpdConfig, context: Context) -> None:
        """Store the arguments."""
        super().__init__(config, context)
        self._templates = Templates()
        self._modules = ""

    @property
    def proof_host(self) -> str:
        """Host name at which httpd, which listens on no Unix socket, tells its generation."""
        return f"{sha256(os.fsencode(self.path)).hexdigest()[:24]}.discovery.invalid"

    def taken_by(self, address: str) -> Sequence[str]:
        """Return the address; with every IPv6 address every IPv4 address, as most builds of httpd listen."""
        host, port = split_host_port(address)
        return [address, join_host_port(_EVERY_IPV4, port)] if host == "::" else [address]

    def command(self, binary: Path) -> Sequence[str]:
        """Return the command that runs httpd in the foreground."""
        return [str(binary), "-DFOREGROUND", "-f", str(self.path)]

    async def look_at_program(self) -> None:
        """Find the directory of the modules. Raises ApplyError."""
        output = await run_command([str(self._binary), "-V"], _VERSION_SECONDS)
        roots = [f"{match[1]}/modules" for match in [_ROOT.search(output.text)] if match]
        candidates = [str(self.config.modules)] if self.config.modules else [*roots, *_MODULE_DIRECTORIES]
        found = next((each for each in candidates if Path(each, "mod_proxy_balancer.so").exists()), None)
        if found is None:
            raise ApplyError("httpd's mod_proxy_balancer was not found: install it, or set 'modules' to its directory")
        self._modules = found

    def text(self, plan: Plan, generation: str) -> str:
        """Return httpd.conf."""
        variables = {
            "plan": plan,
            "generation": generation,
            "directory": str(self.path.parent),
            "modules": self._modules,
            "proof_host": self.proof_host,
            "methods": _BALANCE,
            "factors": {pool.name: _factors(pool.backends) for pool in plan.pools},
            "has_tls": any(listener.certificate for listener in plan.listeners),
            "has_checks": any(pool.check for pool in plan.pools),
            "is_root": os.geteuid() == 0,
        }
        return self._templates.render("builtin:httpd", "apache", variables)

    async def check_file(self, path: Path) -> None:
        """Let httpd check the file. Raises RefusedError or ApplyError."""
        await examine([str(self._binary), "-t", "-f", str(path)], CHECK_SECONDS, "httpd refuses the configuration")

    async def start(self, generation: str) -> None:
        """Start httpd; `prove` waits until httpd answers."""
        if self._program is not None:
            await self._program.start(0.0)

    async def reload(self, generation: str) -> None:
        """Tell httpd to read the file, and let connections end."""
        if self._program is not None:
            self._program.send_signal(signal.SIGUSR1)

    async def missing(self, generation: str) -> str | None:
        """Ask httpd for its generation, at the first address."""
        bind = min((bind for _, _, bind in binds_of(self.config)), key=lambda bind: bool(bind.certificate))
        host, port = split_host_port(bind.address)
        scheme = "https" if bind.certificate else "http"
        url = f"{scheme}://{join_host_port(_EVERY_ADDRESS.get(host, host), port)}/"
        name = self.proof_host
        try:
            answer = await request("GET", url, timeout=ANSWER_SECONDS, headers={"Host": name}, server_name=name)
        except OSError as error:
            return f"httpd does not answer: {describe(error)}"
        return None if answer.body == generation else "httpd answers with another configuration"


def _factors(backends: Sequence[BackendView]) -> Mapping[str, int]:
    """Return the load factors of backends: their weights, made smaller if one is larger than httpd's largest."""
    most = max((backend.weight for backend in backends), default=1)
    share = min(1.0, _MOST_FACTOR / most)
    return {backend.id: max(1, round(backend.weight * share)) for backend in backends}
