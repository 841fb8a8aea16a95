"""The file registry keeps the contract, names its directory by URL, and tells whatever is done to the files."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.errors import ConfigError
from discovery.registry import Lease, RegistryURL, open_registry
from discovery.registry.file import FileRegistry
from discovery.registry.file.lease import FileLease
from discovery.system.files import write_atomically
from discovery.testing import Follower, RegistryContract, contents, within

from .conftest import PLAIN, follow, write


class TestContract(RegistryContract):
    ttl = within(1.0)

    def setup_method(self) -> None:
        self.root = Path(tempfile.mkdtemp())

    def teardown_method(self) -> None:
        shutil.rmtree(self.root)

    def open(self) -> FileRegistry:
        return FileRegistry(self.root)

    async def write(self, key: str, value: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(value)

    async def remove(self, key: str) -> None:
        (self.root / key).unlink()

    @contextmanager
    def cut(self) -> Iterator[None]:
        elsewhere = self.root.with_name(f"{self.root.name}.elsewhere")
        self.root.rename(elsewhere)
        try:
            yield
        finally:
            elsewhere.rename(self.root)

    async def expire(self, lease: Lease) -> None:
        assert isinstance(lease, FileLease)
        lease.abandon()
        await asyncio.sleep(lease.ttl)
        lease._keep_alive_task = asyncio.create_task(lease._keep_alive())


_names = st.sampled_from(["a/1", "a/2", "b/1", "b/1/deeper", "top"])
_acts = st.one_of(
    st.tuples(st.just("write"), _names, st.integers(1, 9)),
    st.tuples(st.just("replace"), _names, st.integers(1, 9)),
    st.tuples(st.just("remove"), _names, st.just(0)),
    st.tuples(st.just("rename"), _names, _names),
    st.tuples(st.just("link"), _names, st.just(0)),
    st.tuples(st.just("settle"), st.just(""), st.just(0)),
)


def act(root: Path, kind: str, name: str, other: str | int) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    value = f"10.0.0.{other}:80".encode()
    if kind == "write":
        path.write_bytes(value)
    elif kind == "replace":
        write_atomically(path, value)
    elif kind == "remove":
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif kind == "rename":
        path.rename(root / str(other))
    else:
        path.symlink_to(root.parent / "linked to")


def naive(root: Path) -> dict[str, bytes]:
    """The records of the directory, read file by file without any shortcut."""
    records = {}
    for place in root.iterdir():
        if place.name.startswith("."):
            continue
        if not place.is_dir():
            records[place.name] = b""
            continue
        for path in place.iterdir():
            key = f"{place.name}/{path.name}"
            if path.is_dir():
                records[f"{key}/"] = b""
            elif path.is_symlink():
                records[key] = b""  # it leads out of the directory
            else:
                records[key] = path.read_bytes()
    return records


@settings(max_examples=15)
@given(st.lists(_acts, max_size=15))
def test_whatever_is_done_to_the_files_what_is_told_adds_up_to_what_is_there(
    acts: list[tuple[str, str, str | int]],
) -> None:
    async def check(watch: Follower) -> None:
        for kind, name, other in acts:
            if kind == "settle":
                await watch.until(lambda: watch.records == naive(root))
            else:
                with suppress(OSError):  # what cannot be done is not done
                    act(root, kind, name, other)
        await watch.until(lambda: watch.records == naive(root), f"{naive(root)}")

    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "root"
        root.mkdir()
        write(root.parent, "linked to")
        follow(root, check)


class TestURL:
    async def test_it_names_a_directory(self, tmp_path: Path) -> None:
        write(tmp_path, "a b/web/b1")
        assert await contents(open_registry(f"file://{tmp_path}/a%20b")) == {"web/b1": PLAIN}

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("file://", "names no directory"),
            ("file:///", "names no directory"),
            ("file://srv/services", "three slashes"),
            ("file:///srv?interval=1", "no option 'interval'"),
            ("file:///a%00b", "zero byte"),
        ],
    )
    def test_anything_else_is_refused(self, url: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            FileRegistry.from_url(RegistryURL.parse(url))
