"""The single file: `discovery` with all plugins and their dependencies, for one version of Python and one platform.

At its first start it unpacks itself into a virtual environment in PEX_ROOT (`~/.cache/pex`), and runs from there. So
every process that runs `sys.executable -m ...` finds the same modules: workers, helpers, commands.
"""

import json
import sys
import sysconfig
import zipfile
from pathlib import Path

from release.commands import ReleaseError, module
from release.sbom import local_places


def build(target: Path, wheels: tuple[Path, ...], version: str, *, epoch: str) -> Path:
    """Build the file from `wheels`, with their dependencies from the index, into `target`. Raises ReleaseError."""
    platform = sysconfig.get_platform().replace("-", "_")
    path = target / f"discovery-{version}-cp{sys.version_info.major}{sys.version_info.minor}-{platform}.pex"
    # With a shell script in front, a start costs one start of Python, and not two.
    options = ("--venv", "--sh-boot", "--script", "discovery", "--python", sys.executable)
    module("pex", *options, "--output-file", path, *wheels, SOURCE_DATE_EPOCH=epoch)
    with zipfile.ZipFile(path) as archive:
        info = archive.read("PEX-INFO").decode()
        texts = [
            info,
            *(archive.read(name).decode() for name in archive.namelist() if name.endswith("direct_url.json")),
        ]
    if found := sorted({place for text in texts for place in local_places(text)}):
        raise ReleaseError(f"{path.name} names places of this machine: {', '.join(found)}")
    if not json.loads(info)["venv"]:
        raise ReleaseError(f"{path.name} makes no virtual environment")
    return path
