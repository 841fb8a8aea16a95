"""Builds the images with Docker or Podman, without pulling anything: `make images`.

The root file systems are laid out on this machine (layout.py) and imported as one image, which takes the place of the
first stage of the Dockerfile. Files have the time of the last commit, and archives an order of names, so that the same
tree and the same packages make the same layers.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import IO

import layout

sys.path.append(str(layout.ROOT))  # this program is run by its path
from release.times import commit_time

DOCKERFILE = layout.HERE / "Dockerfile"
_FIRST = "FROM scratch AS discovery\n"
"""The line of the Dockerfile that follows the stage `build`."""


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    lay_out = commands.add_parser("layout", help="lay out the root file systems in a new directory")
    lay_out.add_argument("directory", type=Path)
    build = commands.add_parser("build", help="build every image")
    build.add_argument("--engine", default="docker", help="docker or podman (default: docker)")
    build.add_argument("--prefix", default="", help="before every name, such as polvi/ or registry.example.com/edge/")
    build.add_argument("--tag", default="latest", help="the tag of every image (default: latest)")
    build.add_argument("--layout", type=Path, help="a directory that `layout` has made (default: a temporary one)")
    arguments = parser.parse_args()
    os.umask(0o022)  # the images' users read what root writes here
    signal.signal(signal.SIGTERM, _end)
    try:
        if arguments.command == "build":
            _require(arguments.engine)
        if arguments.command == "layout":
            layout.lay_out(arguments.directory)
        elif arguments.layout is not None:
            build_images(arguments.engine, arguments.layout, arguments.prefix, arguments.tag)
        else:
            with tempfile.TemporaryDirectory(prefix="discovery-images-") as temporary:
                layout.lay_out(Path(temporary))
                build_images(arguments.engine, Path(temporary), arguments.prefix, arguments.tag)
    except layout.MissingError as error:
        print(error, file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"`{' '.join(map(str, error.cmd))}` has failed with {error.returncode}", file=sys.stderr)
        return 1
    return 0


def names() -> list[str]:
    """Return the names of the images, in the order of the Dockerfile."""
    return [words[3] for words in map(str.split, _stages().splitlines()) if words[:1] == ["FROM"]]


def build_images(engine: str, directory: Path, prefix: str, tag: str) -> None:
    """Build every image from the root file systems of `directory`. Raises CalledProcessError."""
    base = f"localhost/discovery-layout:{os.getpid()}"
    try:
        _import(engine, directory, base)
        with tempfile.TemporaryDirectory() as context:
            Path(context, "Dockerfile").write_text(f"FROM {base} AS build\n{_stages()}")
            for name in names():
                _build(engine, context, name, f"{prefix}{name}:{tag}")
    finally:
        # By force: what a build has begun may still use it.
        remove = [engine, "rmi", "--force", base]
        subprocess.run(remove, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def _end(number: int, _frame: FrameType | None) -> None:
    """Let the program end as it always does, and remove what is temporary; no second signal cuts that short."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def _require(engine: str) -> None:
    if shutil.which(engine) is None:
        way_out = "install docker.io or podman, and name the one that is there: make images ENGINE=podman"
        raise layout.MissingError(f"{engine} not found: {way_out}")
    # Docker's client exits with 1 if no daemon answers. Podman has none, and answers itself.
    asked = subprocess.run(
        [engine, "version"], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if asked.returncode:
        way_out = f"start {engine}, name its socket in DOCKER_HOST, or name another engine: make images ENGINE=podman"
        raise layout.MissingError(f"{asked.stderr.strip()}\n{engine} does not answer: {way_out}")


def _stages() -> str:
    return "".join(DOCKERFILE.read_text().partition(_FIRST)[1:])


def _import(engine: str, directory: Path, name: str) -> None:
    command = [engine, "import", "-", name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stdin is not None  # noqa: S101 - for the type
        with suppress(BrokenPipeError):  # the engine says why
            _archive(directory, process.stdin)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def _build(engine: str, context: str, target: str, name: str) -> None:
    # An image of OCI's format has no health check. The format of Docker is Docker's own only one.
    format_ = ["--format", "docker"] if Path(engine).name == "podman" else []
    command = [engine, "build", *format_, "--quiet", "--target", target, "--tag", name, context]
    # BuildKit is a component of its own, which Debian's Docker lacks.
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
    done = subprocess.run(command, env=environment, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.stderr.buffer.write(done.stdout)
        raise subprocess.CalledProcessError(done.returncode, command)
    print(name)


def _archive(directory: Path, stream: IO[bytes]) -> None:
    """Write the files below `directory` as /images, in an order and with times that do not depend on this moment."""
    time = commit_time(layout.ROOT)
    owned = {f"images/discovery/{place}" for place in layout.OWNED}

    def normal(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.mtime = time
        entry.uid = entry.gid = layout.USER if entry.name in owned else 0
        entry.uname = entry.gname = ""
        return entry

    with tarfile.open(fileobj=stream, mode="w|") as tar:
        for path in (directory, *sorted(directory.rglob("*"))):
            tar.add(path, Path("images", path.relative_to(directory)), recursive=False, filter=normal)


if __name__ == "__main__":
    sys.exit(main())
