"""The command `discovery register-container`: registers a container's port, as polvi/docker-register did.

The command runs the provider `docker` with a configuration of its own.
"""

import hashlib
import ipaddress
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import typer

from discovery import Backend, ConfigError, RecordError
from discovery.addresses import SOURCES, OwnAddresses, is_dynamic
from discovery.commands import (
    ConfigOption,
    ForceOption,
    OwnerOption,
    RegistryOption,
    ReplaceOption,
    RunDirOption,
    TakeoverOption,
    TtlOption,
    linked_registry,
    parsed_option,
    serve,
)
from discovery.fields import WEIGHT
from discovery.probes import HttpProbe
from discovery.registry import encode, validate
from discovery_docker.sockets import EngineError, engine_of_environment

_CONTAINER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
_PORT = re.compile(r"([0-9]{1,5})(?:/(.*))?")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]")
_LONGEST_READABLE = 64
"""Characters of a key in an instance's name, which is also the name of a directory; a digest makes names unique."""
_RESERVED = {
    "host": "choose the address with --host",
    "port": "Docker chooses the port",
    "weight": "give it with --weight",
    "ttl": "give it with --ttl",
    "owner": "give it with --owner",
    "state": "the state follows the container",
    "labels": "give each label as KEY=VALUE",
    "haproxy_server_options": "server options belong in the configuration of the plugin haproxy",
}


def register_container(
    container: Annotated[str, typer.Argument(help="The name or id of the container, which need not exist yet.")],
    port: Annotated[str, typer.Argument(help="The port within the container: 80, or 80/tcp.")],
    service: Annotated[str, typer.Argument(help="The service to register the container for.")],
    labels: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Labels of the record.", show_default=False),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help=f"Announced address of a port published on all addresses: {SOURCES}. Default: DISCOVERY_ADDRESS,"
            " COREOS_PRIVATE_IPV4, or else this machine's primary address; required in a container without the host's"
            " network.",
        ),
    ] = None,
    weight: Annotated[int, parsed_option(WEIGHT, "Relative to the other backends; 0: no new connections.")] = 1,
    check: Annotated[
        Literal["none", "tcp", "http"] | None,
        typer.Option(help="A check that must pass, besides Docker's own health check. Default: none."),
    ] = None,
    check_path: Annotated[str | None, typer.Option(metavar="PATH", help="The path of an http check.")] = None,
    ttl: TtlOption = 10.0,
    owner: OwnerOption = None,
    force: ForceOption = False,
    takeover: TakeoverOption = False,
    registry: RegistryOption = None,
    run_dir: RunDirOption = None,
    replace: ReplaceOption = False,
    config: ConfigOption = None,
) -> int:
    """Register a container's port for as long as the container runs.

    Follows restarts and changes of the port. DOCKER_HOST names another Docker engine than this machine's. Ctrl-C or
    SIGTERM withdraws the record.

    \b
    discovery register-container apache-1 80 apache
    discovery register-container apache-1 80/tcp apache version=2 --host 10.0.0.5
    """
    if not _CONTAINER.fullmatch(container):
        raise ConfigError(f"{container!r} is not the name or id of a container: use letters, digits and _.-")
    if force and takeover:
        raise ConfigError("--force takes the key without asking, and --takeover asks for the key: give one of them")
    try:
        engine_of_environment()
    except EngineError as error:  # which no waiting would change
        raise ConfigError(str(error)) from None
    if host is not None and is_dynamic(host):
        try:
            OwnAddresses((host,))
        except ValueError as error:
            raise ConfigError(f"--host {error}") from None
    number = _port(port)
    extras = _labels(labels or ())
    try:
        fixed = host if host is not None and not is_dynamic(host) else "localhost"
        backend = validate(Backend(service, container, fixed, number, weight, labels=extras))
        encode(backend, owner, ttl)
    except RecordError as error:
        raise ConfigError(str(error)) from None
    table: dict[str, Any] = {
        "plugin": "docker",
        "ttl": ttl,
        "force": force,
        "takeover": takeover,
        "weight": weight,
        "check": _check(check, check_path),
        "names": [container],
        "port": number,
        "service": service,
        "id": container,
        "labels": extras,
        "conventions": False,
    }
    if owner is not None:
        table["owner"] = owner
    if host is not None:
        address = host if is_dynamic(host) else backend.host
        table |= {"address": address, "loopback": _is_loopback(address)}
    providers = {_instance(backend): table}
    return serve(
        registry=registry or linked_registry(),
        providers=providers,
        run_dir=run_dir,
        replace=replace,
        config=config,
    )


def _check(type_: str | None, path: str | None) -> dict[str, str]:
    if path is None:
        return {"type": type_ or "none"}
    if type_ not in (None, "http"):
        raise ConfigError("--check-path requires --check http")
    try:
        HttpProbe(path)
    except ValueError as error:
        raise ConfigError(f"--check-path {path!r}: {error}") from None
    return {"type": "http", "path": path}


def _port(text: str) -> int:
    match = _PORT.fullmatch(text)
    if match is None or not 1 <= int(match[1]) <= 65535:
        raise ConfigError(f"the port {text!r} is not a number from 1 to 65535, or such a number with /tcp")
    if match[2] not in (None, "tcp"):
        raise ConfigError(f"the port {text!r} has another protocol than TCP: only TCP ports can be registered")
    return int(match[1])


def _labels(pairs: Iterable[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"{pair!r} is not KEY=VALUE")
        if key in _RESERVED:
            raise ConfigError(f"{pair!r}: {key!r} is a field of the record itself: {_RESERVED[key]}")
        if key in labels:
            raise ConfigError(f"the key {key!r} is given twice")
        labels[key] = value
    return labels


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _instance(backend: Backend) -> str:
    """Return the name of the provider instance. The instance's directory, lock and default owner have this name."""
    key = backend.key
    readable = _NOT_IN_A_NAME.sub("-", key)[:_LONGEST_READABLE]
    return f"container-{readable}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
