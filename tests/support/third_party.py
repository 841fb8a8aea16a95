"""Plugins of others, installed for the programs that a test starts."""

from pathlib import Path

HANGS = """
import asyncio
from discovery import hookimpl
from discovery.registry.memory import MemoryLease, MemoryRegistry

class Lease(MemoryLease):
    async def close(self):
        await asyncio.Event().wait()

class Hanging(MemoryRegistry):
    async def open_lease(self, owner, ttl):
        return Lease(self, owner, ttl)

    async def close(self):
        await asyncio.Event().wait()

@hookimpl
def discovery_register_registries(register):
    register("hangs", lambda url: Hanging())
"""
"""A registry, `hangs://`, that never ends a withdrawal."""
FIXED = """
import asyncio
from discovery import hookimpl
from discovery.registry import Reset

class Fixed:
    def __init__(self, url):
        self.records = {f"web/{endpoint}": endpoint.encode() for endpoint in url.endpoints}

    async def watch(self):
        yield Reset(7, self.records)
        await asyncio.Event().wait()

    async def open_lease(self, owner, ttl):
        raise NotImplementedError

    async def close(self):
        pass

@hookimpl
def discovery_register_registries(register):
    register("fixed", Fixed)
"""
"""A registry, `fixed://ADDRESS:PORT`, with the endpoints of its URL as backends of `web`, at revision 7."""


def install(site: Path, name: str, source: str, distribution: str = "", requires: str = "") -> None:
    """Install a plugin in `site`, a directory for PYTHONPATH; by default the distribution has the plugin's name."""
    distribution = distribution or name
    module = distribution.replace("-", "_")
    info = site / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n{needs}")
    (info / "entry_points.txt").write_text(f"[discovery]\n{name} = {module}\n")
    (site / f"{module}.py").write_text(source)
