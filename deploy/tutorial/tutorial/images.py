"""The images of the containers: built from this checkout, without a registry of images, and copied to machines."""

import io
import tarfile
from pathlib import Path

from docker_lab import Machine

from discovery.demo.processes import Stage
from tutorial.containers import HAPROXY_CONFIG

_BUILD = Path(__file__).parents[2] / "images/build.py"
_NAMES = (
    *("polvi/simple-amb", "polvi/docker-register", "polvi/dynamic-etcd-amb"),
    *("user_name/apache", "user_name/haproxy"),
)
HAPROXY = """\
FROM polvi/haproxy
COPY haproxy.cfg /etc/haproxy/haproxy.cfg
ENTRYPOINT ["/usr/sbin/haproxy", "-W", "-db", "-f", "/etc/haproxy/haproxy.cfg"]
CMD []
HEALTHCHECK NONE
"""
"""HAProxy alone, with the tutorial's configuration: the health check of its base asks a daemon, which does not run."""


def build(machine: Machine, archive: Path, stage: Stage) -> None:
    """Build the images with the engine of a machine, and save the images as an archive.

    Raises StepFailedError if the images cannot be built, and what `Stage.wait` raises.
    """
    # Its temporary directories end with the stage, even if it has no time to remove them.
    environment = {"DOCKER_HOST": machine.url, "TMPDIR": str(stage.directory)}
    building = stage.start_python("images", str(_BUILD), "build", "--prefix", "polvi/", environment=environment)
    stage.complete(building, "the images are built")
    machine.docker("tag", "polvi/apache", "user_name/apache")
    context = _context({"Dockerfile": HAPROXY, "haproxy.cfg": HAPROXY_CONFIG})
    machine.client.images.build(fileobj=context, custom_context=True, tag="user_name/haproxy", rm=True)
    draft = archive.with_suffix(".draft")
    machine.docker("save", "--output", str(draft), *_NAMES)
    draft.rename(archive)


def load(machine: Machine, archive: Path) -> None:
    """Load the images of an archive into the engine of a machine."""
    machine.docker("load", "--quiet", "--input", str(archive))


def _context(files: dict[str, str]) -> io.BytesIO:
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text.encode()), 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))
    context.seek(0)
    return context
