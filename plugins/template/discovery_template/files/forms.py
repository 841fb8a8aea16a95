"""The accepted forms of refused services, on disk: a restart takes no service away that has an accepted form."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from discovery.toolkit import write_atomically
from discovery_template.printing.views import BackendView, Labels, ServiceView

_NAME = "accepted.json"
"""Name of the file in the state directory."""


def write_forms(state_dir: Path, forms: Sequence[ServiceView]) -> None:
    """Keep the forms; without a form the file is removed. Raises OSError."""
    path = state_dir / _NAME
    if not forms:
        with suppress(FileNotFoundError):
            path.unlink()
        return
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    document = {
        service.name: [{**backend._asdict(), "labels": dict(backend.labels)} for backend in service.all]
        for service in forms
    }
    write_atomically(path, json.dumps(document).encode(), 0o600)


def read_forms(state_dir: Path) -> tuple[ServiceView, ...]:
    """Return the forms that were kept; none if there is no file, or a file that cannot be read."""
    try:
        document = json.loads((state_dir / _NAME).read_bytes())
        return tuple(
            ServiceView(
                name,
                tuple(
                    BackendView(**{**each, "labels": Labels(each["labels"]), "addresses": tuple(each["addresses"])})
                    for each in backends
                ),
            )
            for name, backends in sorted(document.items())
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return ()
