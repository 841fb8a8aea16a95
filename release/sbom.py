"""The software bill of materials of a release, CycloneDX in JSON: what its wheels bring into an empty environment."""

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from release import versions
from release.commands import ReleaseError, module

_TOOLS = frozenset({"pip", "setuptools", "wheel"})
"""Part of a virtual environment, and not of the release."""
_LOCAL_URL = re.compile(
    r"file://|https?://(?:[^/\s\"]*@[^/\s\"]*|(?:localhost|127(?:\.\d+){3}|10(?:\.\d+){3})\b)", re.IGNORECASE
)
"""A file, a package index with a login, or one of this machine or its network."""


def write(target: Path, python: Path, version: str, *, epoch: str) -> Path:
    """Write the bill of the environment of `python` into `target`. Raises ReleaseError."""
    arguments = ("environment", "--output-reproducible", "--of", "JSON", "-o", "-")
    printed = module("cyclonedx_py", *arguments, python, SOURCE_DATE_EPOCH=epoch)
    text = json.dumps(of_release(json.loads(printed), version), indent=2, sort_keys=True) + "\n"
    if found := local_places(text):
        raise ReleaseError(f"the SBOM names places of this machine: {', '.join(found)}")
    path = target / f"discovery-{version}.cdx.json"
    path.write_text(text)
    return path


def of_release(document: dict[str, Any], version: str) -> dict[str, Any]:
    """Return the bill of an environment as that of the release: without tools, and without places of this machine.

    Of a wheel of the release its checksum stays.
    """
    components = [_public(each) for each in document["components"] if each["name"] not in _TOOLS]
    own = sorted(each["bom-ref"] for each in components if each["name"].startswith("discovery-"))
    there = {each["bom-ref"] for each in components}
    root = {"type": "application", "name": "discovery", "version": version, "bom-ref": "discovery"}
    needs = [
        {
            **each,
            **({"dependsOn": kept} if (kept := [ref for ref in each.get("dependsOn", ()) if ref in there]) else {}),
        }
        for each in document["dependencies"]
        if each["ref"] in there
    ]
    return {
        **document,
        "components": components,
        "dependencies": [{"ref": "discovery", "dependsOn": own}, *needs],
        "metadata": {**document["metadata"], "component": root},
    }


def local_places(text: str) -> tuple[str, ...]:
    """Return what in `text` names a place of this machine: its directories, files, and package indexes of its own."""
    here = {str(each) for each in (Path.home(), versions.ROOT, tempfile.gettempdir(), sys.prefix)} - {"/"}
    # Not as a part of a longer path or of a public URL.
    directories = re.compile(rf"(?<![\w.~-])(?:{'|'.join(map(re.escape, sorted(here)))})(?![\w-])")
    return tuple(sorted({*_LOCAL_URL.findall(text), *directories.findall(text)}))


def _public(component: dict[str, Any]) -> dict[str, Any]:
    references = component.get("externalReferences", [])
    local = [each for each in references if each["url"].startswith("file:")]
    kept = {key: value for key, value in component.items() if key != "externalReferences"}
    if public := [each for each in references if each not in local]:
        kept["externalReferences"] = public
    if hashes := [each for reference in local for each in reference.get("hashes", ())]:
        kept["hashes"] = hashes
        kept["purl"] = f"pkg:pypi/{component['name']}@{component['version']}"
    return kept
