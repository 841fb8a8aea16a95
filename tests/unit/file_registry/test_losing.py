"""Point 3. What the file registry says of leases, and of a directory that comes back without its records."""

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from discovery.daemon.once import current_snapshot
from discovery.registry.file import FileRegistry
from discovery.registry.file.directory import REVISION_FILE
from discovery.testing import Follower, eventually, following, within

from .conftest import PLAIN, follow, write

LEASED = b'{"host": "10.0.0.1", "port": 80, "owner": "host-1", "ttl": 60.0}'


def follow_what_is_lost(root: Path, check: Callable[[Follower], Awaitable[None]]) -> None:
    """Follow two records until another directory takes the place, as one does below an unmounted file system."""
    for id_ in ("a", "b"):
        write(root, f"web/{id_}")

    async def lose(watch: Follower) -> None:
        await eventually((root / REVISION_FILE).exists)
        root.rename(root.with_name("away"))
        root.mkdir()
        await watch.until(lambda: watch.stale)
        await check(watch)

    follow(root, lose)


def test_records_with_a_ttl_are_leased(tmp_path: Path) -> None:
    """Point 3."""
    write(tmp_path, "web/static")
    write(tmp_path, "web/leased", LEASED)

    async def check(watch: Follower) -> None:
        assert watch.leases == {"web/leased": 60.0}
        write(tmp_path, "web/more", LEASED)
        await watch.until(lambda: watch.leases == {"web/leased": 60.0, "web/more": 60.0})

    follow(tmp_path, check)


def test_a_directory_that_comes_back_with_other_records_is_another_history(tmp_path: Path) -> None:
    """Point 3. Its registrars write into the new directory, and nobody removed what is not back."""
    root = tmp_path / "root"

    async def check(watch: Follower) -> None:
        write(root, "web/a")
        await watch.until(lambda: watch.stale is None)
        assert watch.records == {"web/a": PLAIN}
        assert watch.resets[-1].another
        assert len(watch.resets) == 2

    follow_what_is_lost(root, check)


def test_a_directory_that_is_mounted_again_is_the_same_history(tmp_path: Path) -> None:
    """Point 3."""
    root = tmp_path / "root"

    async def check(watch: Follower) -> None:
        root.rmdir()
        (tmp_path / "away" / "web" / "b").unlink()
        (tmp_path / "away").rename(root)
        await watch.until(lambda: watch.stale is None)
        assert watch.records == {"web/a": PLAIN}
        assert len(watch.resets) == 1

    follow_what_is_lost(root, check)


def test_an_empty_directory_that_is_meant_is_the_same_history(tmp_path: Path) -> None:
    """Point 3."""
    root = tmp_path / "root"

    async def check(watch: Follower) -> None:
        (root / REVISION_FILE).touch()
        await watch.until(lambda: watch.stale is None)
        assert watch.records == {}
        assert len(watch.resets) == 1

    follow_what_is_lost(root, check)


def test_a_first_listing_of_an_empty_directory_without_a_counter_vouches_for_nothing(tmp_path: Path) -> None:
    """Point 3. A daemon that starts while the file system is not mounted must not believe it."""
    root = tmp_path / "root"
    root.mkdir()

    async def check(watch: Follower) -> None:
        assert watch.resets[0].another

    follow(root, check)
    write(root, "web/a")

    async def meant(watch: Follower) -> None:
        assert not watch.resets[0].another
        await eventually((root / REVISION_FILE).exists)

    follow(root, meant)
    shutil.rmtree(root / "web")
    follow(root, meant)


async def test_a_process_that_reads_once_writes_no_revision(tmp_path: Path) -> None:
    write(tmp_path, "web/a")
    first = await current_snapshot(FileRegistry(tmp_path), timeout=within(10))
    assert list(first.services) == ["web"]
    assert not (tmp_path / REVISION_FILE).exists()
    async with following(FileRegistry(tmp_path)) as watch:
        await eventually((tmp_path / REVISION_FILE).exists)
        assert watch.revision == first.revision
