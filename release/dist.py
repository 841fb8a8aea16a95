"""`make dist`: everything that a release consists of, in the directory `dist`, checked and tried."""

import argparse
import datetime as dt
import gzip
import hashlib
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from release import commands, completions, manpages, packages, sbom, singlefile, versions
from release.commands import ReleaseError
from release.times import commit_time

SUMS = "SHA256SUMS"


def make(target: Path) -> None:
    """Build everything into the directory `target`, which is emptied first. Raises ReleaseError."""
    empty(target)
    epoch = str(commit_time(versions.ROOT))
    with tempfile.TemporaryDirectory(prefix="discovery-dist-") as place:
        directory = Path(place)
        with _step("wheels and sdists, built and checked"):
            built = packages.build(target, epoch=epoch)
        wheels = packages.wheels(target)
        with _step(f"{len(wheels)} wheels in an empty environment, with the demo"):
            python = commands.empty_environment(directory / "wheels", *wheels)
            bill = sbom.write(target, python, versions.version(), epoch=epoch)
            commands.install(python, f"{packages.core(wheels)}[demo]")  # etcd and HAProxy, for where PATH lacks them
            packages.try_out(directory / "wheels", python.with_name("discovery"))
            packages.import_all(python, wheels)
            extras = write_extras(target, directory, python.with_name("discovery"), epoch=epoch)
        with _step("a single file, with the demo"):
            single = singlefile.build(target, wheels, versions.version(), epoch=epoch)
            (directory / "single").mkdir()
            packages.try_out(directory / "single", single, PEX_ROOT=str(directory / "pex"))
    write_sums(target)
    files = (*built, bill, extras, single, target / SUMS)
    print(f"==> {target}: {len(files)} files of version {versions.version()}")


def empty(target: Path) -> None:
    """Empty the directory `target`, or make it. Raises ReleaseError if it holds what no earlier run has made."""
    if target.exists() and not target.is_dir():
        raise ReleaseError(f"{target} is no directory: name another place")
    if target.exists() and any(target.iterdir()) and not (target / SUMS).is_file():
        raise ReleaseError(
            f"{target} is not empty, and has no file {SUMS} of an earlier run: remove it, or name another directory"
        )
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    (target / SUMS).touch()  # so that a run that fails leaves a directory that the next one empties


def write_extras(target: Path, directory: Path, discovery: Path, *, epoch: str) -> Path:
    """Write an archive with the manual pages and the completions, made in `directory`. Raises ReleaseError.

    `discovery` is an installed program that has every command.
    """
    version = versions.version()
    date = dt.datetime.fromtimestamp(int(epoch), dt.UTC).date().isoformat()
    files = (
        *manpages.write(directory / "man" / "man1", version, date),
        *completions.write(directory / "completions", discovery),
    )
    path = target / f"discovery-{version}-man-and-completions.tar.gz"
    with (
        path.open("wb") as out,
        gzip.GzipFile("", "wb", fileobj=out, mtime=int(epoch)) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for each in sorted(files):
            entry = tarfile.TarInfo(f"discovery-{version}/{each.relative_to(directory)}")
            entry.size, entry.mtime, entry.mode = each.stat().st_size, int(epoch), 0o644
            with each.open("rb") as content:
                archive.addfile(entry, content)
    return path


def write_sums(target: Path) -> None:
    """Write the checksums of the files in `target`, for `sha256sum --check`."""
    files = sorted(path for path in target.iterdir() if path.is_file() and path.name != SUMS)
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (target / SUMS).write_text("".join(lines))


@contextmanager
def _step(what: str) -> Iterator[None]:
    began = time.monotonic()
    print(f"==> {what}", flush=True)
    yield
    print(f"    {time.monotonic() - began:.0f} s", flush=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "target",
        type=Path,
        nargs="?",
        default=versions.ROOT / "dist",
        help=f"the directory to write to, which is emptied: new, empty, or with the {SUMS} of an earlier run"
        " (default: dist)",
    )
    try:
        make(parser.parse_args().target.absolute())
    except ReleaseError as error:
        sys.exit(f"make dist: {error}")


if __name__ == "__main__":
    main()
