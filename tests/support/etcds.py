"""An etcd for a module or a test, and registries that are followed and closed; fixtures that modules import."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from discovery.registry import Registry, open_registry
from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import Follower, require_program


@pytest.fixture(scope="module")
def etcd() -> Iterator[EmbeddedEtcd]:
    require_program("etcd")
    require_program("etcdctl")
    with EmbeddedEtcd() as etcd:
        yield etcd


@pytest.fixture(name="etcd")
def etcd_of_its_own() -> Iterator[EmbeddedEtcd]:
    """As `etcd`, for each test."""
    require_program("etcd")
    require_program("etcdctl")
    with EmbeddedEtcd() as etcd:
        yield etcd


@pytest.fixture
def url(etcd: EmbeddedEtcd) -> str:
    """A prefix of the test's own."""
    return f"{etcd.url}/{uuid.uuid4().hex}"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Registry]:
    registry = open_registry(url)
    try:
        yield registry
    finally:
        await registry.close()


@asynccontextmanager
async def following_from_the_start(registry: Registry) -> AsyncIterator[Follower]:
    """Like `following`, but without waiting for a listing that may not come."""
    follower = Follower(registry)
    follower.task = task = asyncio.create_task(follower.run())
    try:
        yield follower
    finally:
        task.cancel()
        await asyncio.wait([task])
