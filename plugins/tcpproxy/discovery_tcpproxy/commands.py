"""The commands `ambassador`, `forward` and `connections` of `discovery`.

`ambassador` and `forward` replace polvi/dynamic-etcd-amb and simple-amb; both run the consumer `tcpproxy` with a
generated configuration.
"""

import hashlib
import ipaddress
import json
import re
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Annotated, Literal

import typer

from discovery import Backend, ConfigError, RecordError, join_host_port, parse_address, split_host_port
from discovery.addresses import OwnAddresses, is_dynamic, is_loopback, is_unspecified
from discovery.commands import (
    AdminCAOption,
    AdminCertOption,
    AdminFiles,
    AdminKeyOption,
    AdminTokenFileOption,
    ConfigOption,
    JsonOption,
    RegistryOption,
    ReplaceOption,
    RunDirOption,
    StateDirOption,
    ask_daemon,
    configured_admin,
    linked_registry,
    note,
    print_table,
    result,
    serve,
)
from discovery.fields import UNIX_PREFIX, BindAddress
from discovery.registry import validate
from discovery_tcpproxy.connection_list import HEADER, fetch_connections, rows
from discovery_tcpproxy.proxy_options import ProxyOptions, with_proxy_options

FORWARD_BIND = "0.0.0.0:10000"
"""Address on which `forward` listens by default, as simple-amb did."""
_CLIENT_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - bind addresses
_ADMIN = BindAddress(sockets=False, names=True)
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]+")


@with_proxy_options
def ambassador(
    service: Annotated[str, typer.Argument(help="The service that clients reach; it need not exist yet.")],
    port: Annotated[str, typer.Argument(help="The port to listen on.")],
    *,
    listen: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="An address of this machine, or interface:eth1, network:10.0.0.0/8 or metadata. Repeatable."
            " Default: 0.0.0.0.",
        ),
    ] = None,
    balance: Annotated[
        Literal["roundrobin", "leastconn", "random", "source"] | None,
        typer.Option(help="How a backend is chosen. Default: roundrobin."),
    ] = None,
    options: ProxyOptions,
    registry: RegistryOption = None,
    run_dir: RunDirOption = None,
    state_dir: StateDirOption = None,
    replace: ReplaceOption = False,
    config: ConfigOption = None,
    admin: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="The address of an admin endpoint: health, metrics and state of this ambassador. Default: none.",
        ),
    ] = None,
    admin_token_file: AdminTokenFileOption = None,
) -> int:
    """Listen on a fixed port, and forward TCP connections to the backends that the registry has at the moment.

    Runs until Ctrl-C or SIGTERM. Then idle connections are closed; the others have half a minute to finish.

    \b
    discovery ambassador redis 6379
    discovery ambassador postgres 5432 --listen 127.0.0.1 --registry etcd://10.0.0.1:2379
    discovery ambassador redis 6379 --admin 127.0.0.1:9902
    """
    number = _port(port)
    try:
        validate(Backend(service, "any", "localhost", number))
    except RecordError as error:
        raise ConfigError(str(error)) from None
    # 0.0.0.0 is the default of dynamic-etcd-amb.
    binds = [bind for address in listen or ("0.0.0.0",) for bind in _binds(address, number)]  # noqa: S104
    return serve(
        registry=registry or linked_registry(),
        consumers={_instance("ambassador", binds): options.table(service, binds, service=service, balance=balance)},
        run_dir=run_dir,
        state_dir=state_dir,
        replace=replace,
        config=config,
        admin=admin,
        admin_token_file=admin_token_file,
    )


@with_proxy_options
def forward(
    targets: Annotated[
        list[str],
        typer.Argument(metavar="HOST:PORT", help="The targets: the first that can be reached is used."),
    ],
    *,
    listen: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST:PORT", help=f"Address to listen on, or unix:/PATH. Repeatable. Default: {FORWARD_BIND}."
        ),
    ] = None,
    options: ProxyOptions,
    run_dir: RunDirOption = None,
    replace: ReplaceOption = False,
    config: ConfigOption = None,
) -> int:
    """Listen on a fixed address, and forward TCP connections to fixed targets, without any registry.

    Of several targets the first that can be reached is used. Runs until Ctrl-C or SIGTERM.

    \b
    discovery forward 10.0.0.5:4001
    discovery forward db1:5432 db2:5432 --listen 127.0.0.1:5432
    """
    try:
        binds = [BindAddress().parse(each) for each in listen or (FORWARD_BIND,)]
    except ValueError as error:
        raise ConfigError(f"--listen {error}") from None
    try:
        _refuse_loop(targets, binds)
    except (RecordError, ValueError) as error:
        raise ConfigError(str(error)) from None
    return serve(
        registry="memory://",  # empty, and always reachable
        consumers={_instance("forward", binds): options.table("forward", binds, targets=targets, balance="first")},
        run_dir=run_dir,
        replace=replace,
        config=config,
    )


def connections(
    admin: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            envvar="DISCOVERY_ADMIN",
            help="The admin endpoint of `discovery run`. Default: the configuration's admin, else 127.0.0.1:9901.",
        ),
    ] = None,
    consumer: Annotated[str | None, typer.Option(metavar="NAME", help="Only this consumer's. Default: all.")] = None,
    as_json: JsonOption = False,
    admin_token_file: AdminTokenFileOption = None,
    admin_ca: AdminCAOption = None,
    admin_cert: AdminCertOption = None,
    admin_key: AdminKeyOption = None,
    config: ConfigOption = None,
) -> None:
    """List the open connections of a daemon.

    \b
    discovery connections
    discovery connections --consumer edge --json
    """
    if admin is None:
        admin = configured_admin(config)
    try:
        host, port = split_host_port(_ADMIN.parse(admin))
    except ValueError:
        raise ConfigError(
            f"--admin {admin!r} is not the address of an admin endpoint:"
            " write HOST:PORT, with a port from 1 to 65535, such as 127.0.0.1:9901"
        ) from None
    asked_with = AdminFiles(admin_token_file, admin_ca, admin_cert, admin_key)
    at = join_host_port(_CLIENT_ADDRESS.get(host, host), port)
    found = fetch_connections(lambda path: ask_daemon(path, at, asked_with, config), at, consumer)
    if as_json:
        result(json.dumps({"connections": found.connections, "more": found.more}, indent=2))
    elif found.connections:
        print_table(HEADER, rows(found.connections))
    else:
        note("no connections")
    if found.more:
        note(f"and {found.more} more")


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise ConfigError(f"the port {text!r} is not a number from 1 to 65535")
    return int(text)


def _binds(address: str, port: int) -> list[str]:
    """Return the addresses to listen on: one, or those that a source such as interface:eth1 stands for."""
    try:
        if is_dynamic(address):
            # No variable says where to listen.
            return [join_host_port(own.host, port) for own in OwnAddresses([address], {}).read()]
    except ValueError as error:
        raise ConfigError(f"--listen {error}") from None
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        raise ConfigError(
            f"--listen {address!r} is not an address such as 0.0.0.0, 127.0.0.1 or ::1 (the port is {port} already),"
            " and not interface:eth1, network:10.0.0.0/8 or metadata"
        ) from None
    return [join_host_port(str(parsed), port)]


def _refuse_loop(targets: Iterable[str], binds: Iterable[str]) -> None:
    """Raise ValueError if a target is among the addresses to listen on, a loop. Raises RecordError as well."""
    for target, bind in product(targets, binds):
        host, port = parse_address(target)
        if bind.startswith(UNIX_PREFIX):
            continue
        at, number = split_host_port(bind)
        if number == port and (
            host == at or (is_loopback(host) and is_unspecified(at)) or (host == "localhost" and is_loopback(at))
        ):
            raise ValueError(
                f"the target {target} is an address that this command listens on: choose another address with --listen"
            )


def _instance(command: str, binds: Sequence[str]) -> str:
    """Return the name of the instance, its directory and its lock: one for each set of addresses."""
    text = ",".join(binds)
    readable = _NOT_IN_A_NAME.sub("-", text).strip("-")[:32]
    return f"{command}-{readable}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
