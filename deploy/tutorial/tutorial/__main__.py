"""`make tutorial`, or `python -m tutorial` with deploy/tutorial on the path. As root."""

import argparse
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from docker.errors import DockerException
from docker_lab.guard import guarded
from docker_lab.leftovers import LabDirectory, sweep

from discovery.demo.processes import Interrupted, Stage
from discovery.errors import DiscoveryError
from tutorial.picture import draw
from tutorial.report import document, text
from tutorial.requirements import require_programs, require_root, require_writable
from tutorial.story import Options, Result, Story

_FAILURES = (DiscoveryError, DockerException, subprocess.SubprocessError, AssertionError, OSError, RuntimeError)
"""What a step raises if an engine, a program or the machine fails."""
_ENGINE = "run it again; a Docker engine needs cgroups, iptables and free disk in TMPDIR"


def main(arguments: Sequence[str]) -> int:
    """Run the tutorial; return the exit code: 0 if the run shows what it is to show, 130 after an interruption."""
    asked = _parser().parse_args(arguments)
    try:
        _check(asked)
        result = _run(asked)
        print(document(result) if asked.json else f"\n{text(result)}", flush=True)
        if asked.picture:
            draw(result, asked.picture)
    except Interrupted:
        return 130
    except _FAILURES as error:
        print(f"tutorial: {explain(error)}", file=sys.stderr)
        return 1
    if asked.picture and not asked.json:
        print(f"\nThe picture is {asked.picture}.")
    return 0 if result.passed else 1


def explain(error: BaseException) -> str:
    """Return one line for a failure: what failed, and the way out."""
    match error:
        case subprocess.CalledProcessError():
            written = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else error.stderr
            reason = _last_line(written or "") or f"exit status {error.returncode}"
            return f"`{' '.join(map(str, error.cmd))}`: {reason}"
        case subprocess.TimeoutExpired():
            command = error.cmd if isinstance(error.cmd, str) else " ".join(map(str, error.cmd))
            return f"`{command}` took more than {error.timeout:g} s: run it again while the machine is less busy"
        case DockerException():
            return (
                f"Docker: {_shortened(str(error))}: run it again; a Docker engine needs cgroups, iptables and free disk"
            )
        case RuntimeError():
            return f"{_shortened(str(error))}: {_ENGINE}"
        case _:
            return _shortened(str(error)) or type(error).__name__


def _shortened(message: str) -> str:
    """Return what a message begins with and, of a log that follows there, the last line, which has the reason."""
    begin, colon, rest = message.strip().partition(": ")
    return f"{begin}{colon}{_last_line(rest)}" if "\n" in message.strip() else message.strip()


def _last_line(written: str) -> str:
    return next(reversed(written.strip().splitlines()), "")


def _check(asked: argparse.Namespace) -> None:
    require_root()
    if asked.picture:
        require_writable(asked.picture, "--picture")
    build = not (asked.images and asked.images.is_file())
    if asked.images and build:
        require_writable(asked.images, "--images")
    require_programs(images=build)


def _run(asked: argparse.Namespace) -> Result:
    output = sys.stderr if asked.json else sys.stdout
    sweep()
    # If this run is killed, its guard removes the place, and with it the stage's directory; or else the next run does.
    with guarded(), LabDirectory() as place, Stage(place) as stage:
        try:
            return Story(stage, Options(asked.leader, asked.rate, asked.images), output).run()
        finally:
            print("\nStopping everything; nothing stays behind.", file=output, flush=True)


def _rate(argument: str) -> float:
    rate = float(argument)
    if not 0 < rate < math.inf:
        raise argparse.ArgumentTypeError(f"{argument} is no rate: give requests per second, more than 0")
    return rate


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("make tutorial", description=__doc__)
    parser.add_argument("--leader", action="store_true", help="put etcd's leader on machine a (default: a follower)")
    parser.add_argument("--rate", type=_rate, default=50.0, help="requests per second (default: 50)")
    parser.add_argument(
        "--picture", type=Path, default=Path("tutorial.png"), help="the PNG file (default: tutorial.png)"
    )
    parser.add_argument("--no-picture", dest="picture", action="store_const", const=None, help="write no picture")
    parser.add_argument("--images", type=Path, help="an archive of the images, which is made if it does not exist")
    parser.add_argument("--json", action="store_true", help="print the result as JSON; the steps go to stderr")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
