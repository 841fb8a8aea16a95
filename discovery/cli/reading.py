"""The registry's contents at this moment, for commands that end by themselves."""

from typing import TYPE_CHECKING

from discovery.cli.console import progress
from discovery.cli.options import close_registry, registry_at

if TYPE_CHECKING:
    from discovery.daemon.once import Contents
    from discovery.registry import RegistryURL


async def read_registry(url: "RegistryURL", timeout: float) -> "Contents":
    """Return the contents of the registry at `url`, read within `timeout` seconds.

    Raises RegistryUnavailableError, which names the registry.
    """
    from discovery.daemon.once import current_contents
    from discovery.errors import RegistryUnavailableError

    registry = registry_at(url)
    try:
        with progress(f"{url}, for up to {timeout:g} s"):
            return await current_contents(registry, timeout)
    except RegistryUnavailableError as error:
        raise RegistryUnavailableError(f"{url}: {error}") from None
    finally:
        await close_registry(registry)
