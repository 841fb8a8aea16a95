"""The handlers of the live page: the page itself, its stream, its static files and the panels of plugins."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from discovery.admin.driving import Driving
from discovery.admin.guard import is_by_session, is_still_known
from discovery.admin.page.facts import Facts, facts_of, wall_offset
from discovery.admin.page.filters import filters_of
from discovery.admin.page.matching import Slices
from discovery.admin.page.painting import Painter
from discovery.admin.page.statics import Static, load
from discovery.admin.page.stream import MOST_VIEWS, Stream, event
from discovery.admin.sources import Sources
from discovery.errors import describe

HEARTBEAT = 15.0
"""Seconds without news after which a stream sends an empty line, so that a client that has gone is noticed."""
KNOWN_SECONDS = 1.0
"""Seconds after which a stream without news looks whether its client may still be told: it may have logged out."""
SLOW_SECONDS = 30.0
"""Seconds in which a client has to read what was sent: one that does not is dropped, and connects again."""
ANSWER_SECONDS = 2.0
"""Seconds that a plugin has to tell of itself."""
GLANCE_SECONDS = 0.5
"""Seconds that a page waits for what others tell, the registry's members and the consumers; a live page shows later
answers when they come."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""What a browser may load for our pages: nothing but what this server sends as a file of its own."""
FLEET = "fleet"
"""The panel of the other daemons, which are asked when it is opened."""
_RETRY = b"retry: 1000\n"
"""Milliseconds after which a browser connects again: a daemon that is replaced is there within a second."""


class Site:
    """The live page of a daemon. For one event loop."""

    def __init__(self, sources: Sources, keep: Callable[[web.Request], bool]) -> None:
        """Prepare; what the page needs is loaded when it is first asked for. `keep` is that of `HttpServer`."""
        self._sources = sources
        self._keep = keep
        self._offset = wall_offset()
        self._loading = asyncio.Lock()
        self._loaded: tuple[dict[str, Static], Any, Painter, Stream] | None = None
        self._closing = asyncio.Event()
        waiters = sources.waiters
        self._driving = Driving(sources.consumers, waiters.tell if waiters is not None else lambda: None)

    def routes(self) -> list[web.RouteDef]:
        """The routes of everything but the page itself, which shares its path with the list of paths."""
        return [
            web.get("/stream", self._stream, allow_head=False),  # it has no end
            web.get("/static/{name}", self._static),
            web.get(f"/panel/{FLEET}", self._fleet),
            web.get("/panel/{kind}/{name}", self._panel),
        ]

    def close(self) -> None:
        """End the streams. Idempotent."""
        self._closing.set()
        self._driving.close()
        if self._loaded is not None:
            self._loaded[3].close()

    async def page(self, request: web.Request) -> web.Response:
        """Return the page as the query of `request` wants it."""
        _, renderer, painter, _ = await self._load()
        filters = filters_of(request.query)
        members = self._sources.members
        await asyncio.gather(
            self._driving.look(GLANCE_SECONDS), *([members.look(GLANCE_SECONDS)] if members is not None else [])
        )
        picture = await painter.paint(painter.view(filters), self._facts(), Slices())
        panel = await self._told(renderer, filters.panel) if filters.panel else ""
        html = renderer.page(
            filters, picture.parts, picture.rows, self._panels(), panel, time.time(), by_session=is_by_session(request)
        )
        return web.Response(text=html, content_type="text/html", headers={"Vary": "Accept"})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        *_, stream = await self._load()
        wanted = [filters_of(dict(parse_qsl(each))) for each in request.query.getall("view", [""])[:MOST_VIEWS]]
        if self._closing.is_set() or not stream.has_room(wanted) or not self._keep(request):
            return web.json_response({"error": "too many pages are open; close some"}, status=503)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        hello = _RETRY + event({"views": [each.query for each in wanted]}, "hello")
        # The room is taken before anything is awaited.
        with stream.reader(dict.fromkeys(wanted)) as reader, suppress(ConnectionError, TimeoutError):
            await response.prepare(request)
            await response.write(hello)
            quiet = 0.0
            while not self._closing.is_set() and is_still_known(request):
                async with asyncio.timeout(SLOW_SECONDS):
                    for message in reader.take():
                        await response.write(message)
                        quiet = 0.0
                    if quiet >= HEARTBEAT:
                        await response.write(b":\n\n")
                        quiet = 0.0
                if not await reader.wait(KNOWN_SECONDS):
                    quiet += KNOWN_SECONDS
        return response

    async def _static(self, request: web.Request) -> web.Response:
        files, *_ = await self._load()
        file = files.get(request.match_info["name"])
        if file is None:
            return web.json_response({"error": "there is no such file"}, status=404)
        newest = request.query.get("v") == file.digest
        headers = {
            "ETag": f'"{file.digest}"',
            "Cache-Control": "max-age=31536000, immutable" if newest else "no-cache",
        }
        if f'"{file.digest}"' in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers=headers)
        return web.Response(body=file.body, content_type=file.type, charset="utf-8", headers=headers)

    async def _panel(self, request: web.Request) -> web.Response:
        _, renderer, *_ = await self._load()
        path = f"{request.match_info['kind']}/{request.match_info['name']}"
        if path not in dict(self._panels()):
            return web.json_response({"error": "there is no such plugin"}, status=404)
        return web.Response(text=await self._told(renderer, path), content_type="text/html")

    async def _fleet(self, _: web.Request) -> web.Response:
        renderer = (await self._load())[1]
        return web.Response(text=await self._told(renderer, FLEET), content_type="text/html")

    async def _told(self, renderer: Any, path: str) -> str:
        """Return the panel of the fleet or of a plugin as HTML; a reason in its place if the plugin does not tell."""
        if path == FLEET and self._sources.fleet is not None:
            return str(renderer.part("fleet", await self._sources.fleet()))
        kind, _, name = path.partition("/")
        plugins: dict[str, Any] = {"consumers": self._sources.consumers, "providers": self._sources.providers}
        plugin = plugins[kind]().get(name) if kind in plugins else None
        told, error = {}, ""
        if plugin is None:
            error = "there is no such plugin"
        else:
            try:
                told = dict(await plugin.inspect(ANSWER_SECONDS))
            except TimeoutError:
                error = f"it has not answered within {ANSWER_SECONDS:g} s"
            except Exception as raised:  # noqa: BLE001 - a plugin may raise anything
                error = describe(raised)
        if not told and not error:
            error = "it tells nothing of itself"
        return str(renderer.part("panel", path, told, error))

    def _panels(self) -> list[tuple[str, str]]:
        consumers = [(f"consumers/{name}", f"Consumer {name}") for name in self._sources.consumers()]
        return [*consumers, *((f"providers/{name}", f"Provider {name}") for name in self._sources.providers())]

    def _facts(self) -> Facts:
        return facts_of(self._sources, self._offset, self._driving.glance())

    async def _load(self) -> tuple[dict[str, Static], Any, Painter, Stream]:
        async with self._loading:
            if self._loaded is None:
                # On a thread: applies are not to wait for it.
                files, renderer = await asyncio.to_thread(_renderer)
                painter = Painter(renderer)
                self._loaded = files, renderer, painter, Stream(self._facts, painter, self._sources.waiters)
            return self._loaded


async def secure(_: web.Request, response: web.StreamResponse) -> None:
    """Add to a response what tells a browser to load nothing from elsewhere, and to keep nothing of a page."""
    response.headers["X-Content-Type-Options"] = "nosniff"
    if response.content_type in ("text/html", "text/javascript"):  # a shared worker has the policy of its script
        response.headers.setdefault("Content-Security-Policy", POLICY)
    if response.content_type == "text/html":
        # Without a referrer a browser sends the origin `null` with the form that logs out.
        response.headers.setdefault("Referrer-Policy", "same-origin")
        response.headers.setdefault("Cache-Control", "no-store")


def wants_html(request: web.Request) -> bool:
    """Whether the client is a browser: programs do not ask for HTML by its name."""
    return "text/html" in request.headers.get("Accept", "").lower()


def _renderer() -> tuple[dict[str, Static], Any]:
    files = load()
    module = import_module("discovery.admin.page.rendering")
    return files, module.Renderer({name: each.path for name, each in files.items()})
