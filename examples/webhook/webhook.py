"""An observer in a single file: posts every change as JSON to a URL.

discovery run --plugin ./webhook.py --set webhook.url=http://127.0.0.1:9000/hook
"""

import json
import urllib.request

from pydantic import Field

from discovery import Changes, PluginConfig, Snapshot, hookimpl
from discovery.toolkit import backend_document

_SECONDS = 5.0
"""Seconds for an answer. A slow receiver delays this observer alone."""


class Options(PluginConfig):
    """The options in `[consumers.NAME]`."""

    url: str = Field(description="Where changes are posted")


@hookimpl
def discovery_observer_config() -> type[PluginConfig]:
    """Return the type of the options."""
    return Options


@hookimpl
def discovery_backends_changed(changes: Changes, snapshot: Snapshot, options: Options) -> None:
    """Post the changes. Raises OSError if that fails: the core then calls the hook again, with all changes since."""
    document = {
        "revision": snapshot.revision,
        "added": [backend_document(each) for each in changes.added],
        "updated": [backend_document(each) for each in changes.updated],
        "removed": [backend_document(each) for each in changes.removed],
    }
    request = urllib.request.Request(  # noqa: S310 - the operator chooses the URL
        options.url, json.dumps(document).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=_SECONDS):  # noqa: S310
        pass
