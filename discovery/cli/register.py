"""`discovery register`: registers a backend for as long as the command runs."""

import asyncio
import signal
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from discovery.addresses import SOURCES, OwnAddresses
from discovery.cli.console import note, progress, result
from discovery.cli.options import (
    ConfigOption,
    ForceOption,
    RegistryOption,
    RunDirOption,
    TakeoverOption,
    TimeoutOption,
    close_registry,
    parsed_option,
    registry_at,
    settings_of,
    start_logging,
)
from discovery.cli.signals import run_until_signal
from discovery.codec import encode
from discovery.errors import (
    CannotBeAskedError,
    ConfigError,
    HandedOverError,
    OwnedByAnotherError,
    RecordError,
    RegistryUnavailableError,
)
from discovery.fields import CHECK_TIME, TTL, WEIGHT, Duration
from discovery.model import Backend, State
from discovery.system import systemd
from discovery.validity import parse_address, validate, validate_port

if TYPE_CHECKING:
    from discovery.checks import Check
    from discovery.daemon.settings import Settings
    from discovery.providing.registrar import RegistrarStatus
    from discovery.providing.registration import Wanted

_COMMAND = "discovery.command"


class CheckType(StrEnum):
    """The kinds of checks."""

    NONE = "none"
    TCP = "tcp"
    HTTP = "http"


class TakesCommand(TyperCommand):
    """A typer command whose arguments after `--` are another command, with options of its own."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments before `--`. Store the command after `--` in the context."""
        own, ctx.meta[_COMMAND] = _split(args)
        return super().parse_args(ctx, own)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Add the command to the usage line."""
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND...]"]


COMMAND = TakesCommand


def register(
    context: typer.Context,
    service: Annotated[str, typer.Argument(help="The service that the backend serves.")],
    address: Annotated[
        str,
        typer.Argument(
            metavar="HOST:PORT",
            help="The backend's address; an IPv6 host in brackets. :PORT: at the announced address of this machine.",
        ),
    ],
    host: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help=f"The announced address for :PORT: {SOURCES}."
            " Default: DISCOVERY_ADDRESS, COREOS_PRIVATE_IPV4, or else this machine's primary address.",
        ),
    ] = None,
    id_: Annotated[
        str | None, typer.Option("--id", help="The backend's name within the service. Default: HOST:PORT.")
    ] = None,
    weight: Annotated[
        int, parsed_option(WEIGHT, "Weight relative to the service's other backends; 0: no new connections.")
    ] = 1,
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="A label; may be repeated.")] = None,
    ttl: Annotated[float, parsed_option(TTL, "Time that the record stays after this machine has failed.")] = 10.0,
    state: Annotated[State, typer.Option(help="draining: no new connections.")] = State.ACTIVE,
    check: Annotated[
        CheckType | None,
        typer.Option(
            help="Register the backend only while this check passes.", show_default="tcp with a COMMAND, else none"
        ),
    ] = None,
    check_path: Annotated[str | None, typer.Option(metavar="PATH", help="The path of an http check's request.")] = None,
    check_address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="The address to check. Default: the backend's address.")
    ] = None,
    check_interval: Annotated[float, parsed_option(CHECK_TIME, "Time between two runs of the check.")] = 5.0,
    check_timeout: Annotated[float, parsed_option(CHECK_TIME, "Time after which a run has failed.")] = 2.0,
    drain: Annotated[
        float,
        parsed_option(
            Duration(zero="at once"), "Time from the backend's withdrawal to the signal that stops the COMMAND."
        ),
    ] = 0.5,
    stop_signal: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SIGNAL",
            help="A signal, beside TERM and INT, before which the backend is withdrawn; may be repeated.",
        ),
    ] = None,
    force: ForceOption = False,
    takeover: TakeoverOption = False,
    owner: Annotated[
        str | None, typer.Option(help="The record's owner. Default: this machine, user, run directory and key.")
    ] = None,
    timeout: TimeoutOption = 10.0,
    registry: RegistryOption = None,
    run_dir: RunDirOption = None,
    config: ConfigOption = None,
) -> int:
    """Register a backend until stopped.

    Ctrl-C or SIGTERM withdraws the backend. With a COMMAND: runs the command, registers the backend while the command
    runs and its check passes, withdraws the backend before the command is stopped, forwards signals to the command, and
    exits with the command's status.

    \b
    discovery register web 10.0.0.5:8080
    discovery register web [2001:db8::5]:8080 --id blue --weight 10 --label version=2
    discovery register web :8080 --host interface:eth1
    discovery register web 10.0.0.5:8080 --check-path /health -- ./server --port 8080
    """
    from discovery.cli.supervise import Command, supervise
    from discovery.providing.registration import Wanted, lock_path
    from discovery.system.owners import DefaultOwner

    if force and takeover:
        raise ConfigError("--force takes the key without asking, and --takeover asks for the key: give one of them")
    argv: list[str] | None = context.meta[_COMMAND]
    if argv == []:
        raise ConfigError("name the command to run after --")
    if check is None:
        check = CheckType.HTTP if check_path is not None else CheckType.NONE if argv is None else CheckType.TCP
    settings = settings_of(config, registry=registry, run_dir=run_dir)
    try:
        backend = validate(_backend(service, _address(address, host), id_, weight, state, label or ()))
        key = backend.key
        default = DefaultOwner(f"register/{key}", lock_path(settings.registry, key, settings.run_dir))
        whose = owner or str(default)
        encode(backend, whose, ttl)
        checks = _checks(check, check_path, check_address, check_interval, check_timeout)
    except RecordError as error:
        raise ConfigError(str(error)) from None
    succeeds = default.succeeds if not owner else lambda other: False
    wanted = Wanted(settings.registry, backend, checks, whose, ttl, force, takeover, succeeds)
    if argv is None:
        return _until_stopped(wanted, timeout, settings)
    stop_signals = {signal.SIGTERM, signal.SIGINT, *map(_signal, stop_signal or ())}
    return supervise(Command(argv, drain, stop_signals), wanted, settings)


def _until_stopped(wanted: "Wanted", timeout: float, settings: "Settings") -> int:
    """Register until a signal, or until another owner asks for the key.

    Return the exit code: 0 if the backend was registered before.
    """
    was_registered = False

    def registered() -> None:
        nonlocal was_registered
        was_registered = True

    number = run_until_signal(_register(wanted, timeout, settings, registered))
    return 0 if was_registered or number is None else 128 + number


def _split(arguments: list[str]) -> tuple[list[str], list[str] | None]:
    if "--" not in arguments:
        return arguments, None
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def _address(text: str, host: str | None) -> tuple[str, int]:
    """Return the host and port of `text`, HOST:PORT, or for :PORT the announced address of this machine."""
    if not text.startswith(":"):
        if host is not None:
            raise ConfigError(f"{text!r} names a host, and --host names another: write :PORT with --host")
        return parse_address(text)
    port = validate_port(text[1:])
    try:
        own = OwnAddresses(() if host is None else (host,), warn=note).read()
    except ValueError as error:
        raise ConfigError(f"--host {error}" if host is not None else str(error)) from None
    if not own:
        raise ConfigError("this machine has no address that other machines can reach: write HOST:PORT")
    note(f"the announced address is {own[0]}")
    return own[0].host, port


def _backend(
    service: str, address: tuple[str, int], id_: str | None, weight: int, state: State, labels: Iterable[str]
) -> Backend:
    host, port = address
    pairs = {}
    for label in labels:
        name, equals, value = label.partition("=")
        if not equals:
            raise ConfigError(f"--label {label!r} is not KEY=VALUE")
        pairs[name] = value
    backend = Backend(service, "", host, port, weight, state, pairs)
    return Backend(service, id_ if id_ is not None else backend.address, host, port, weight, state, pairs)


def _checks(
    type_: CheckType, path: str | None, address: str | None, interval: float, timeout: float
) -> tuple["Check", ...]:
    from discovery.checks import Check, Probe
    from discovery.probes import HttpProbe, TcpProbe

    if type_ is CheckType.NONE:
        if path is not None or address is not None:
            raise ConfigError("--check-path and --check-address are for a check: add --check tcp or --check http")
        return ()
    if type_ is CheckType.TCP and path is not None:
        raise ConfigError("--check-path is for --check http")
    asked = None if address is None else parse_address(address)
    try:
        probe: Probe = TcpProbe(asked) if type_ is CheckType.TCP else HttpProbe(path or "/", address=asked)
    except ValueError as error:
        raise ConfigError(f"--check-path {path!r}: {error}") from None
    return (Check(probe, interval, timeout),)


def _signal(name: str) -> signal.Signals:
    from discovery.cli.child import PASSED_ON

    known = {number.name.removeprefix("SIG"): number for number in PASSED_ON}
    try:
        return known[name.upper().removeprefix("SIG")]
    except KeyError:
        raise ConfigError(f"--stop-signal {name!r} is not one of {', '.join(known)}") from None


async def _register(wanted: "Wanted", timeout: float, settings: "Settings", registered: Callable[[], None]) -> None:
    import structlog

    from discovery.providing.registration import Registration, exclusive_registration, silence_reason
    from discovery.system.asyncio_tools import cancel_and_wait
    from discovery.system.logs import configure_logging

    key = wanted.key
    first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    moved: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
    final = (CannotBeAskedError, RecordError) if wanted.takeover else (OwnedByAnotherError, RecordError)

    def changed(status: "RegistrarStatus") -> None:
        error = status.failing.get(key)
        if isinstance(error, HandedOverError):
            if not moved.done():
                moved.set_result(error.owner)
        elif first.done():
            return
        elif key in status.registered:
            first.set_result(None)
        elif isinstance(error, final):
            first.set_exception(error)

    configure_logging("error")  # a fault that prevents the registration is reported once, by the exception
    registry = registry_at(wanted.registry)
    log = structlog.get_logger()
    registration = Registration(wanted, registry, log, changed)
    async with exclusive_registration(wanted, settings.run_dir, log):
        running = asyncio.create_task(registration.run())
        passing = asyncio.create_task(registration.passing.wait())
        failing = asyncio.create_task(_tell_of_check(registration, key))
        try:
            await asyncio.wait({passing, running}, return_when=asyncio.FIRST_COMPLETED)
            failing.cancel()
            with progress(f"{wanted.registry} to register {key}, for up to {timeout:g} s"):
                await asyncio.wait({first, running}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if first.done():
                first.result()
                registered()
                start_logging(settings)
                result(f"registered {key} at {wanted.backend.address} (ttl {wanted.ttl:g} s, owner {wanted.owner})")
                systemd.notify("READY=1", f"STATUS=registered {key} at {wanted.backend.address}")
            elif not running.done():
                raise RegistryUnavailableError(
                    f"{key} could not be registered at {wanted.registry} within {timeout:g} s:"
                    f" {registration.problem or await silence_reason(registry)}"
                )
            ends: set[asyncio.Future[Any]] = {running, moved}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if moved.done():
                result(f"handed {key} over to {moved.result()!r}, who asked for it")
            else:
                running.result()
        finally:
            systemd.notify("STOPPING=1")
            await cancel_and_wait(running, passing, failing)
            await close_registry(registry)


async def _tell_of_check(registration: Any, key: str) -> None:
    await registration.failing.wait()
    note(f"{key} is registered once its check passes: {registration.check}")
    # Ready although not registered: a backend that is down for long must not get us killed.
    systemd.notify("READY=1", f"STATUS=waits for the check of {key}")
