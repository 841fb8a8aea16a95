"""`discovery deregister`: removes a record, if the caller may remove it."""

import asyncio
from contextlib import aclosing, nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from discovery.cli.console import note, progress, result
from discovery.cli.interrupts import run_coroutine
from discovery.cli.options import (
    ConfigOption,
    RegistryOption,
    RunDirOption,
    TimeoutOption,
    close_registry,
    registry_at,
    settings_of,
)
from discovery.codec import Record, decode
from discovery.errors import ConfigError, DiscoveryError, OwnedByAnotherError, RecordError, RegistryUnavailableError
from discovery.model import Backend, State
from discovery.system.rundir import base_run_dir, lock
from discovery.validity import validate

if TYPE_CHECKING:
    from discovery.daemon.settings import Settings
    from discovery.registry import Registry
    from discovery.system.owners import DefaultOwner

_TTL = 10.0
"""Seconds, the TTL of the lease under which the record is removed: the removal takes less time."""


def deregister(
    service: Annotated[str, typer.Argument(help="The service that the backend serves.")],
    id_: Annotated[str, typer.Argument(metavar="ID", help="The backend's name within the service.")],
    force: Annotated[bool, typer.Option("--force", help="Remove the record of another owner, too.")] = False,
    owner: Annotated[
        str | None, typer.Option(help="The record's owner. Default: `register` on this machine, as this user.")
    ] = None,
    timeout: TimeoutOption = 10.0,
    registry: RegistryOption = None,
    run_dir: RunDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Remove a record that was left in the registry.

    Removes a record of a crashed `register` or provider of this machine before its ttl is over. Removes a record of
    another owner only with --force; an owner that still runs registers the backend again.

    \b
    discovery deregister web 10.0.0.5:8080
    discovery deregister web b1 --force
    """
    try:
        backend = validate(Backend(service, id_, "localhost", 1, 0, State.DRAINING))
    except RecordError as error:
        raise ConfigError(str(error)) from None
    settings = settings_of(config, registry=registry, run_dir=run_dir)
    run_coroutine(_deregister(backend, owner, settings, timeout, force=force))


async def _deregister(named: Backend, owner: str | None, settings: "Settings", timeout: float, *, force: bool) -> None:
    from discovery.providing.registration import lock_path
    from discovery.system.owners import DefaultOwner

    key = named.key
    path = lock_path(settings.registry, key, settings.run_dir)
    registry = registry_at(settings.registry)
    try:
        with progress(f"{settings.registry}, for up to {timeout:g} s"):
            value = await _value(registry, key, timeout)
        if value is None:
            raise DiscoveryError(f"there is no record {key!r} in {settings.registry}")
        record = decode(key, value)
        recorded = record.owner if isinstance(record, Record) else None
        caller = owner or DefaultOwner(f"register/{key}", path)
        base_run_dir(settings.run_dir)
        # A running `discovery register` of this key would register the backend again at once.
        running = (
            nullcontext()
            if force or owner
            else lock(path, f"discovery register {key}", "stop it, which withdraws the record")
        )
        with running:
            if not force and not _may_remove(caller, recorded):
                whose = (
                    f"belongs to {recorded!r}: stop that, or add --force"
                    if recorded
                    else "has no owner (written by hand?): add --force to remove it"
                )
                raise OwnedByAnotherError(f"the record {key!r} {whose}")
            backend = record.backend if isinstance(record, Record) else named
            if not await _remove(registry, backend, recorded):
                raise DiscoveryError(f"the record {key!r} was changed during the removal: try again")
    finally:
        await close_registry(registry)
    result(f"deregistered {key}")
    if force and recorded is not None:
        note(f"{recorded!r} registers it again if it still runs")


def _may_remove(caller: "str | DefaultOwner", recorded: str | None) -> bool:
    if recorded is None:
        return False
    return str(caller) == recorded or (not isinstance(caller, str) and caller.succeeds(recorded))


async def _value(registry: "Registry", key: str, timeout: float) -> bytes | None:
    """Return the present record at `key`. Raises RegistryUnavailableError, with the reason, after `timeout` seconds."""
    from discovery.registry import Reset, Stale

    reason = "it does not answer"
    try:
        async with asyncio.timeout(timeout), aclosing(registry.watch()) as events:
            async for event in events:
                if isinstance(event, Reset):
                    return event.records.get(key)
                if isinstance(event, Stale):
                    reason = event.reason
    except TimeoutError:
        pass
    raise RegistryUnavailableError(f"the registry could not be read within {timeout:g} s: {reason}")


async def _remove(registry: "Registry", backend: Backend, owner: str | None) -> bool:
    """Remove the record unless its owner is no longer `owner`. Return True if removed.

    With `owner` None any record at the key is removed.
    """
    lease = await registry.open_lease(owner or "deregister", _TTL)
    try:
        if owner is not None:
            return bool(await lease.sweep((), {backend.key}))
        await lease.put(backend, force=True)
        await lease.delete(backend)
        return True
    finally:
        await lease.close()
