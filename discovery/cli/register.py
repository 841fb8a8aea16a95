"""`discovery register`: one backend, registered for as long as the command runs."""

import asyncio
import hashlib
import os
from collections.abc import Iterable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from discovery.cli.console import result
from discovery.cli.options import (
    DEFAULT_REGISTRY,
    RegistryOption,
    RunDirOption,
    TimeoutOption,
    registry_at,
    start_logging,
)
from discovery.cli.signals import run_until_signal
from discovery.codec import encode, key_of, parse_address, validate
from discovery.errors import ConfigError, OwnedByAnotherError, RecordError, RegistryUnavailableError
from discovery.model import Backend, State
from discovery.rundir import Lock, base_run_dir, lock

if TYPE_CHECKING:
    from discovery.registrar import Status
    from discovery.registry import Registry


def register(
    service: Annotated[str, typer.Argument(help="The service that the backend serves.")],
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Where it serves; an IPv6 host in brackets.")],
    id_: Annotated[str | None, typer.Option("--id", help="Its name within the service. Default: HOST:PORT.")] = None,
    weight: Annotated[int, typer.Option(help="0-256, relative to its neighbours; 0: no new connections.")] = 1,
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="A label; may be repeated.")] = None,
    ttl: Annotated[
        float, typer.Option(metavar="SECONDS", min=1.0, help="How long it stays registered after this machine died.")
    ] = 10.0,
    state: Annotated[State, typer.Option(help="draining: no new connections.")] = State.ACTIVE,
    force: Annotated[bool, typer.Option("--force", help="Take the key over from another live owner.")] = False,
    owner: Annotated[str | None, typer.Option(help="Who registers it. Default: this machine and the key.")] = None,
    timeout: TimeoutOption = 10.0,
    registry: RegistryOption = DEFAULT_REGISTRY,
    run_dir: RunDirOption = None,
) -> None:
    """Register a backend until stopped.

    Ctrl-C or SIGTERM withdraws it.

    \b
    discovery register web 10.0.0.5:8080
    discovery register web [2001:db8::5]:8080 --id blue --weight 10 --label version=2
    """
    from discovery.registrar import machine_id

    try:
        backend = validate(_backend(service, address, id_, weight, state, label or ()))
        owner = owner or f"{machine_id()}/register/{key_of(backend)}"
        encode(backend, owner, ttl)
    except RecordError as error:
        raise ConfigError(str(error)) from None
    run_until_signal(_register(registry, backend, owner, ttl, force, timeout, run_dir))


def _backend(service: str, address: str, id_: str | None, weight: int, state: State, labels: Iterable[str]) -> Backend:
    host, port = parse_address(address)
    pairs = {}
    for label in labels:
        name, equals, value = label.partition("=")
        if not equals:
            raise ConfigError(f"--label {label!r} is not KEY=VALUE")
        pairs[name] = value
    backend = Backend(service, "", host, port, weight, state, pairs)
    return Backend(service, id_ if id_ is not None else backend.address, host, port, weight, state, pairs)


async def _register(
    url: str, backend: Backend, owner: str, ttl: float, force: bool, timeout: float, run_dir: Path | None
) -> None:
    import structlog

    from discovery.logs import configure_logging
    from discovery.registrar import Registrar
    from discovery.registry import RegistryURL

    key = key_of(backend)
    first: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def changed(status: "Status") -> None:
        if first.done():
            return
        if key in status.registered:
            first.set_result(None)
        elif isinstance(error := status.failing.get(key), OwnedByAnotherError | RecordError):
            first.set_exception(error)

    configure_logging("error")  # what keeps it from being registered at all is told once, at the end
    registry = registry_at(url)
    registrar = Registrar(registry, owner, ttl, structlog.get_logger(), force=force, changed=changed)
    registrar.set([backend])
    with _only_one(url, key, run_dir):
        running = asyncio.create_task(registrar.run())
        try:
            await asyncio.wait({first, running}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if first.done():
                first.result()
                start_logging()
                result(f"registered {key} at {backend.address} (ttl {ttl:g} s, owner {owner})")
            elif not running.done():
                reason = registrar.status.failing.get(key) or await _why_silent(registry)
                raise RegistryUnavailableError(
                    f"{key} could not be registered at {RegistryURL.parse(url)} within {timeout:g} s: {reason}"
                )
            await running
        finally:
            running.cancel()
            await asyncio.wait({running})
            await registry.close()


async def _why_silent(registry: "Registry") -> str:
    """Why it has not answered, which whoever lists it is told sooner than whoever waits for a lease."""
    from discovery.registry import Stale

    with suppress(TimeoutError):
        async with asyncio.timeout(1.0), aclosing(registry.watch()) as events:
            async for event in events:
                if isinstance(event, Stale):
                    return event.reason
                break
    return "it did not answer"


def _only_one(url: str, key: str, run_dir: Path | None) -> Lock:
    """Held while we run: two of one key and owner would take it from each other for ever."""
    name = hashlib.sha256(os.fsencode(f"{url}\0{key}")).hexdigest()[:16]
    return lock(
        base_run_dir(run_dir) / f"register-{name}.lock",
        f"discovery register {key}",
        "stop it first, or register under another --id",
    )
