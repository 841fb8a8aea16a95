"""The consumer `nginx`: nginx follows the registry, for HTTP and, by its module `stream`, for TCP."""

import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from discovery import ApplyError, Context, PluginConfig, describe
from discovery.toolkit import Stopping, run_command
from discovery_template.options.proxy import WAY_OUT, Balance, CheckConfig, ProxyConfig, ServiceConfig, balance_of
from discovery_template.printing.environment import Templates
from discovery_template.proxies.consumer import ANSWER_SECONDS, CHECK_SECONDS, ProxyConsumer
from discovery_template.proxies.overlaps import overlap
from discovery_template.proxies.plan import Plan
from discovery_template.running.commands import examine
from discovery_template.running.requests import request

_STREAM = re.compile(r"--with-stream(=dynamic)?(?= |$)")
_MODULES = re.compile(r"--modules-path=(\S+)")
_BALANCE = {
    "roundrobin": "",
    "static-rr": "",
    "leastconn": "least_conn",
    "random": "random two least_conn",
    "random(2)": "random two least_conn",
    "random(1)": "random",
    "source": "hash $remote_addr consistent",
    "uri": "hash $uri consistent",
    "uri path-only": "hash $uri consistent",
    "uri whole": "hash $request_uri consistent",
}
"""Algorithms by the names of HAProxy. `hdr` and `url_param` have an argument."""
_OF_HTTP = ("uri", "hdr", "url_param")
_HEADER = re.compile(r"[A-Za-z0-9-]+")
_PARAMETER = re.compile(r"\w+", re.ASCII)
_VERSION_SECONDS = 10.0
"""Seconds for `nginx -V`, which takes milliseconds."""


class NginxConfig(ProxyConfig):
    """Options of an instance of the consumer `nginx`."""

    def fault_of(self, service: ServiceConfig) -> str | None:
        """Return what nginx cannot do."""
        balance = balance_of(service.balance)
        if balance.name and not (_HEADER if balance.kind == "hdr" else _PARAMETER).fullmatch(balance.name):
            characters = "letters, digits and '-'" if balance.kind == "hdr" else "letters, digits and '_'"
            return f"balance {service.balance!r}: a name for nginx has {characters} alone; {WAY_OUT}"
        if service.balance not in _BALANCE and not balance.name:
            return (
                f"nginx has no balance {service.balance!r}: choose {', '.join(_BALANCE)}, hdr(NAME) or url_param NAME"
            )
        if service.balance.startswith(_OF_HTTP) and service.mode == "tcp":
            return f'balance {service.balance!r} needs mode = "http"; in tcp mode nginx sees no HTTP'
        for path in service.path_prefix:
            if re.search(r"[$%]", path):
                return f"path_prefix {path!r} has a '$' or '%', which nginx compares after decoding: {WAY_OUT}"
        return None

    def fault_of_check(self, check: CheckConfig) -> str | None:
        """Return that nginx has no checks."""
        return (
            "nginx has no active health checks: leave 'check' out, and let the provider check its backends;"
            f" a backend that refuses a connection is left out for 2 s. Or {WAY_OUT}"
        )

    def model_post_init(self, context: object) -> None:
        """Refuse hosts that nginx cannot tell apart as the precedence says."""
        if fault := overlap(self):
            raise ValueError(fault)


class NginxConsumer(ProxyConsumer[NginxConfig]):
    """Renders nginx.conf, and reloads nginx."""

    Config: ClassVar[type[PluginConfig]] = NginxConfig
    programs = ("nginx",)
    file_name = "nginx.conf"
    stopping = Stopping(signal.SIGQUIT, 6.0)

    def __init__(self, config: NginxConfig, context: Context) -> None:
        """Store the arguments."""
        super().__init__(config, context)
        self._templates = Templates()
        self._stream_module: str | None = ""
        self._former_workers: frozenset[int] = frozenset()

    def command(self, binary: Path) -> Sequence[str]:
        """Return the command that runs nginx in the foreground."""
        return [str(binary), "-e", "stderr", "-p", str(self.path.parent), "-c", str(self.path)]

    async def look_at_program(self) -> None:
        """Find out where nginx has the module for TCP: in itself, or in a file."""
        output = await run_command([str(self._binary), "-V"], _VERSION_SECONDS)
        stream = _STREAM.search(output.text)
        modules = _MODULES.search(output.text)
        if stream is None:
            self._stream_module = None
        elif stream[1] and modules:
            path = Path(modules[1], "ngx_stream_module.so")
            self._stream_module = str(path) if path.exists() else None
        else:
            self._stream_module = ""

    def text(self, plan: Plan, generation: str) -> str:
        """Return nginx.conf."""
        has_tcp = any(pool.mode == "tcp" for pool in plan.pools)
        if has_tcp and self._stream_module is None:
            raise ApplyError(
                'mode = "tcp" needs nginx\'s module stream: install it (on Debian libnginx-mod-stream), or use haproxy'
            )
        variables = {
            "plan": plan,
            "generation": generation,
            "directory": str(self.path.parent),
            "socket": f"unix:{self.socket}",
            "stream_module": self._stream_module if has_tcp else "",
            "has_tcp": has_tcp,
            "balances": {pool.name: _balance(pool.balance) for pool in plan.pools},
            "hashed": sorted({_hashed(pool.balance) for pool in plan.pools if pool.balance.name}),
        }
        return self._templates.render("builtin:nginx", "nginx", variables)

    async def check_file(self, path: Path) -> None:
        """Let nginx check the file. Raises RefusedError or ApplyError."""
        command = [str(self._binary), "-e", "stderr", "-t", "-q", "-p", str(self.path.parent), "-c", str(path)]
        await examine(command, CHECK_SECONDS, "nginx refuses the configuration")

    async def reload(self, generation: str) -> None:
        """Tell nginx's master to read the file."""
        if self._program is not None:
            self._former_workers = _children(self._program.pid)
            self._program.send_signal(signal.SIGHUP)

    async def missing(self, generation: str) -> str | None:
        """Ask a worker for its generation."""
        try:
            answer = await request("GET", "/", timeout=ANSWER_SECONDS, unix_socket=str(self.socket))
        except OSError as error:
            return f"nginx does not answer: {describe(error)}"
        if answer.body != generation:
            return "a worker with another configuration answers"
        self._former_workers = frozenset(filter(_accepts, self._former_workers))
        return "a worker with the former configuration still accepts" if self._former_workers else None


def _hashed(balance: Balance) -> str:
    """Return the name of nginx's variable for a header or a parameter, without the `$`."""
    return f"http_{balance.name.lower().replace('-', '_')}" if balance.kind == "hdr" else f"arg_{balance.name}"


def _balance(balance: Balance) -> str:
    """Return the directive of an algorithm; empty for nginx's own."""
    return f"hash $discovery_{_hashed(balance)} consistent" if balance.name else _BALANCE[balance.kind]


def _children(pid: int | None) -> frozenset[int]:
    """Return the children of a process; none where the kernel does not tell."""
    try:
        return frozenset(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except (OSError, ValueError):
        return frozenset()


def _accepts(worker: int) -> bool:
    """Report whether a worker runs and has not begun to shut down, which the worker tells by its title."""
    try:
        return b"worker process" in (title := Path(f"/proc/{worker}/cmdline").read_bytes()) and b"shutting" not in title
    except OSError:
        return False
