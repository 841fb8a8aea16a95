"""Takes the pictures of the live page again: `make screenshots` runs this file.

python screenshots.py DIRECTORY
"""

import io
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from browsing import NARROW, Visits, badge, chromium, live, row, visiting
from livepage import Stage, staged
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Page

COLOURS = 128
"""Colours of a picture: text and lines need no more, and the files stay small."""


def take(page: "Page", path: Path) -> None:
    """Write what the window shows."""
    picture = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    small = picture.quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1024} KiB")


def furnish(stage: Stage) -> None:
    """Register what a small company has."""
    for number in range(1, 4):
        labels = {"version": f"2.{number // 3}", "zone": f"z{number}"}
        record = {"host": "127.0.0.1", "port": stage.origin, "weight": 10 * number, "labels": labels}
        stage.put(f"api/a{number}", json.dumps({**record, "owner": f"machine-{number}/docker"}))
    for number in range(1, 3):
        record = {"host": f"10.0.1.{number}", "port": 8080, "labels": {"zone": "z1"}}
        stage.put(f"web/w{number}", json.dumps({**record, "owner": f"machine-{number}/apache"}))
    stage.put("web/old", json.dumps({"host": "10.0.1.9", "port": 8080, "state": "draining"}))


def opened(visits: Visits, url: str, shown: str, **options: Any) -> "Page":
    """Open the page, and wait until it shows a backend."""
    page = live(visits(url, **options))
    row(page, "Services", shown).wait_for()
    return page


@contextmanager
def shown(*, many: bool = False) -> Iterator[tuple[Stage, Visits]]:
    """Run the daemon, and what opens its pages."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="page-")))
        stage = stack.enter_context(staged(place, many=many))
        yield stage, stack.enter_context(visiting(stack.enter_context(chromium())))


def main(directory: Path) -> None:
    """Take all pictures."""
    directory.mkdir(parents=True, exist_ok=True)
    with shown() as (stage, visits):
        furnish(stage)
        take(opened(visits, stage.url, "old", color_scheme="light"), directory / "light.png")
        take(opened(visits, stage.url, "old", viewport=NARROW), directory / "narrow.png")
        stage.put("api/silent", "127.0.0.1:1")
        stage.fail()
        stage.put("web/w3", "10.0.1.3:8080")
        page = opened(visits, stage.url, "w3", color_scheme="dark")
        badge(row(page, "Consumers", "archive"), "failing").wait_for()
        badge(row(page, "Services", "silent"), "down").wait_for()
        take(page, directory / "dark.png")
    with shown(many=True) as (stage, visits):
        page = opened(visits, f"{stage.url}?q=zone%3Dz1", "shop-00")
        page.get_by_role("search").evaluate("it => it.scrollIntoView()")
        take(page, directory / "10000-backends.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
