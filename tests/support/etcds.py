"""An etcd for the tests of a module, and registries that are closed; fixtures that modules import."""

import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from discovery.embedded import EmbeddedEtcd
from discovery.registry import Registry, open_registry
from discovery.testing import require_program


@pytest.fixture(scope="module")
def etcd() -> Iterator[EmbeddedEtcd]:
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
