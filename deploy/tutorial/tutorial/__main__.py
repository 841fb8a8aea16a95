"""`make tutorial`, or `python -m tutorial` with deploy/tutorial on the path. As root."""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from discovery.demo.processes import Interrupted, Stage
from discovery.errors import ConfigError, DiscoveryError
from discovery.system.embedded import find_program
from tutorial.picture import draw
from tutorial.report import document, text
from tutorial.story import Options, Story

_PROGRAMS = ("docker", "dockerd", "containerd", "etcd", "etcdctl", "ip", "iptables", "nsenter")
_PACKAGES = "apt install docker.io containerd etcd-server etcd-client iproute2 iptables util-linux"


def main(arguments: Sequence[str]) -> int:
    """Run the tutorial; return the exit code: 0 if the run shows what it is to show, 130 after an interruption."""
    asked = _parser().parse_args(arguments)
    output = sys.stderr if asked.json else sys.stdout
    try:
        _require_parts()
        with Stage() as stage:
            try:
                result = Story(stage, Options(asked.leader, asked.rate, asked.images), output).run()
            except Interrupted:
                return 130
            finally:
                print("\nStopping everything; nothing stays behind.", file=output, flush=True)
        if asked.picture:
            draw(result, asked.picture)
    except subprocess.CalledProcessError as error:
        written = error.stderr.decode() if isinstance(error.stderr, bytes) else error.stderr
        print(f"tutorial: `{' '.join(map(str, error.cmd))}`: {(written or '').strip()}", file=sys.stderr)
        return 1
    except (DiscoveryError, AssertionError, OSError) as error:
        print(f"tutorial: {error}", file=sys.stderr)
        return 1
    if asked.json:
        print(document(result))
    else:
        print(f"\n{text(result)}")
        if asked.picture:
            print(f"\nThe picture is {asked.picture}.")
    return 0 if result.passed else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("make tutorial", description=__doc__)
    parser.add_argument("--leader", action="store_true", help="put etcd's leader on machine a (default: a follower)")
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second (default: 50)")
    parser.add_argument(
        "--picture", type=Path, default=Path("tutorial.png"), help="the PNG file (default: tutorial.png)"
    )
    parser.add_argument("--no-picture", dest="picture", action="store_const", const=None, help="write no picture")
    parser.add_argument("--images", type=Path, help="an archive of the images, which is made if it does not exist")
    parser.add_argument("--json", action="store_true", help="print the result as JSON; the steps go to stderr")
    return parser


def _require_parts() -> None:
    if os.geteuid() != 0:
        raise ConfigError("only root can start Docker engines in namespaces of their own: sudo make tutorial")
    missing = []
    for program in _PROGRAMS:
        try:
            find_program(program)
        except ConfigError:
            missing.append(program)
    if missing:
        raise ConfigError(f"{', '.join(missing)} not found: on Debian, {_PACKAGES}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
