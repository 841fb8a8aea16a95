"""The admin endpoint: the live page, health, readiness, metrics and the state as JSON. Reads only."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from itertools import islice
from operator import itemgetter
from typing import Any, TypeVar

from aiohttp import web
from prometheus_client import CollectorRegistry, Metric, exposition
from prometheus_client.registry import Collector

from discovery.admin.explaindocument import explained
from discovery.admin.guard import Guard, is_known, is_still_known
from discovery.admin.health import word
from discovery.admin.historydocument import history_document
from discovery.admin.members import members_document
from discovery.admin.metrics import metrics
from discovery.admin.page.site import Site, secure, wants_html
from discovery.admin.query import service_of, whole_number
from discovery.admin.sources import Sources
from discovery.admin.status import DaemonStatus
from discovery.admin.statusdocument import status_document
from discovery.admin.waitdocument import awaited_of, wait_document
from discovery.consuming.history import MOST_CHANGES
from discovery.consuming.runner import ConsumerRunner, ConsumerStatus
from discovery.documents import backend_document, names_document, snapshot_document
from discovery.errors import describe
from discovery.hosting.isolation import PluginStatus
from discovery.plugin import Sample
from discovery.providing.provider import RunningProvider, RunningProviderStatus
from discovery.system.httpserver import HttpServer

T = TypeVar("T", ConsumerRunner, RunningProvider)

MOST_EXPLAINED = 200
"""Records of a service that are explained at once: the core waits meanwhile, 10 µs for each and each consumer."""
MOST_HELD = 100
"""Held records that are shown one by one."""
ANSWER_SECONDS = 2.0
"""Seconds that a plugin has to answer; the response goes on without a late one."""
_MOST_UNRESOLVED = 20
"""Backends with an unknown host name that `/healthz` lists: a dead name server must not make the answer long."""


_API = (
    "/api/status",
    "/api/snapshot",
    "/api/consumers",
    "/api/consumers/NAME",
    "/api/providers",
    "/api/providers/NAME",
    "/api/history",
    "/api/explain?service=NAME",
    "/api/wait?service=NAME&timeout=0",
    "/api/fleet",
    "/api/daemon",
)


class Admin:
    """Serves `/healthz`, `/readyz`, `/metrics`, and the state as JSON below `/api`."""

    def __init__(self, sources: Sources) -> None:
        """Prepare; `start` begins. Each of `sources` is called for every request that needs it."""
        self._sources = sources
        self._status = sources.status
        self._runners = sources.consumers
        self._running_providers = sources.providers
        self._server: HttpServer | None = None
        self._closing = False
        self._site = Site(sources, self._keep)
        self._documents = asyncio.Lock()

    async def start(self, listening: list[socket.socket], host: str) -> None:
        """Serve who connects to these sockets, which are at the address `host`."""
        self._server = HttpServer(
            self.application(host), lambda: {host, *self._sources.hosts()}, lambda: self._sources.access().tls
        )
        await self._server.start(listening)

    def application(self, host: str) -> web.Application:
        """Return the application: the routes, and the guard before all of them."""
        app = web.Application()
        app.on_response_prepare.append(secure)
        app.add_routes(
            [
                web.get("/", self._index),
                web.get("/api", self._api),
                web.get("/api/", self._api),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.get("/api/status", self._status_page),
                web.get("/api/snapshot", self._snapshot),
                web.get("/api/consumers", self._consumers),
                web.get("/api/consumers/{name}", self._inspect),
                web.get("/api/providers", self._providers),
                web.get("/api/providers/{name}", self._inspect_provider),
                web.get("/api/history", self._history),
                web.get("/api/explain", self._explain),
                web.get("/api/wait", self._wait),
                web.get("/api/fleet", self._fleet),
                web.get("/api/daemon", self._daemon),
                *self._site.routes(),
            ]
        )
        Guard(self._sources.access, lambda: {host, *self._sources.hosts()}).guard(app)
        return app

    async def close(self) -> None:
        """Stop listening. Idempotent."""
        self._closing = True
        self._site.close()
        if self._sources.waiters is not None:
            self._sources.waiters.tell()
        if self._server is not None:
            await self._server.close()
            self._server = None

    def _keep(self, request: web.Request) -> bool:
        return self._server is not None and self._server.keep(request)

    async def _index(self, request: web.Request) -> web.Response:
        if wants_html(request):
            return await self._site.page(request)
        return web.Response(text="".join(f"{path}\n" for path in ("/healthz", "/readyz", "/metrics", *_API)))

    async def _api(self, _: web.Request) -> web.Response:
        return web.json_response({"paths": _API})

    async def _healthz(self, request: web.Request) -> web.Response:
        status = self._status()
        state = word(status)
        details = {
            "problems": status.problems,
            "degraded": status.degraded,
            "broken": dict(status.broken),
            "registry": _registry(status),
            "unresolved": _unresolved(status),
            "config_error": status.config_error,
        }
        document = {"status": state, **(details if is_known(request) else {})}
        return web.json_response(document, status=503 if state == "failing" else 200)

    async def _status_page(self, _: web.Request) -> web.Response:
        members = await self._members()
        return web.json_response(
            status_document(self._status(), lambda status: {**_registry(status), "members": members})
        )

    async def _members(self) -> dict[str, Any] | None:
        """Return the members of the registry; None if it tells none."""
        look = self._sources.members
        if look is None or not look.tells:
            return None
        document = members_document(await look.look())
        return document if document["members"] or document["reason"] else None

    async def _readyz(self, request: web.Request) -> web.Response:
        status = self._status()
        waiting = status.waiting_for
        details = {"waiting_for": waiting, "registry": _registry(status)}
        document = {"ready": not waiting, **(details if is_known(request) else {})}
        return web.json_response(document, status=503 if waiting else 200)

    async def _metrics(self, _: web.Request) -> web.Response:
        plugins: dict[str, ConsumerRunner | RunningProvider] = {**self._runners(), **self._running_providers()}
        figures = await asyncio.gather(*(each.samples(ANSWER_SECONDS) for each in plugins.values()))
        async with self._turn():
            registry = CollectorRegistry(auto_describe=False)
            registry.register(_ScrapedMetrics(self._status(), dict(zip(plugins, figures, strict=True))))
            body = exposition.generate_latest(registry)
        return web.Response(body=body, headers={"Content-Type": exposition.CONTENT_TYPE_LATEST})

    async def _snapshot(self, _: web.Request) -> web.Response:
        status = self._status()
        document = {"registry": _registry(status)}
        if status.snapshot is None:
            error = "no snapshot yet" if status.followed else "the registry is not followed: there is no consumer"
            return web.json_response({**document, "error": error}, status=503)
        async with self._turn():
            names = names_document(status.addresses, status.unresolved)
            return web.json_response({**document, **snapshot_document(status.snapshot, status.owners.by_key), **names})

    async def _consumers(self, _: web.Request) -> web.Response:
        return web.json_response({"consumers": [_consumer(each) for each in self._status().consumers]})

    async def _inspect(self, request: web.Request) -> web.Response:
        return await _details("consumer", request, self._runners(), lambda runner: _consumer(runner.status))

    async def _inspect_provider(self, request: web.Request) -> web.Response:
        return await _details("provider", request, self._running_providers(), lambda each: _provider(each.status))

    async def _providers(self, _: web.Request) -> web.Response:
        async with self._turn():
            return web.json_response({"providers": [_provider(each) for each in self._status().providers]})

    async def _history(self, request: web.Request) -> web.Response:
        try:
            service = service_of(request.query, "/api/history?service=NAME") if "service" in request.query else None
            limit = whole_number(request.query, "limit", least=0, most=MOST_CHANGES, default=MOST_CHANGES)
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        consumers = {name: runner.history for name, runner in self._runners().items()}
        async with self._turn():
            changes = self._sources.changes()
            document = history_document(changes, consumers, service=service, limit=limit)
            return web.json_response(document)

    async def _explain(self, request: web.Request) -> web.Response:
        try:
            service = service_of(request.query, "/api/explain?service=NAME&id=ID")
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        id_ = request.query.get("id")
        async with self._turn():
            return web.json_response(
                await explained(self._sources, service, id_, most=MOST_EXPLAINED, seconds=ANSWER_SECONDS)
            )

    async def _wait(self, request: web.Request) -> web.Response:
        waiters = self._sources.waiters
        if waiters is None:
            return web.json_response({"error": "nobody can wait here"}, status=503)
        try:
            awaited, seconds = awaited_of(request.query)
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)

        def is_over() -> bool:
            has_gone = request.transport is None or request.transport.is_closing()
            return self._closing or has_gone or not is_still_known(request)

        # Half of the connections: others are still answered.
        most = self._server.most // 2 if self._server is not None else 0
        status, document = await wait_document(self._sources, waiters, awaited, seconds, is_over, most)
        if not is_still_known(request):
            return web.json_response({"error": "the credentials of this request do not count any more"}, status=401)
        return web.json_response(document, status=status)

    async def _fleet(self, _: web.Request) -> web.Response:
        if self._sources.fleet is None:
            return web.json_response({"error": "this daemon knows no other"}, status=503)
        return web.json_response(await self._sources.fleet())

    async def _daemon(self, _: web.Request) -> web.Response:
        if self._sources.daemon is None:
            return web.json_response({"error": "this daemon tells nothing of itself"}, status=503)
        return web.json_response(self._sources.daemon())

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Large documents are made one at a time, and the core has its turn between two: it shares our loop."""
        async with self._documents:
            yield
            await asyncio.sleep(0)


async def _details(
    kind: str, request: web.Request, plugins: Mapping[str, T], status_of: Callable[[T], dict[str, Any]]
) -> web.Response:
    """Return what a consumer or provider tells of its state, beside the core's status."""
    name = request.match_info["name"]
    plugin = plugins.get(name)
    if plugin is None:
        names = ", ".join(plugins) or "none"
        return web.json_response({"error": f"there is no {kind} {name!r}; there are: {names}"}, status=404)
    try:
        told = await plugin.inspect(ANSWER_SECONDS)
        return web.json_response({**told, **status_of(plugin)})
    except TimeoutError:
        status, error = 504, f"the {kind} has not answered within {ANSWER_SECONDS:g} s"
    except Exception as raised:  # noqa: BLE001 - a plugin may raise anything, or tell what is no JSON
        status, error = 503, describe(raised)
    return web.json_response({**status_of(plugin), "error": error}, status=status)


class _ScrapedMetrics(Collector):
    def __init__(self, status: DaemonStatus, figures: Mapping[str, Iterable[Sample]]) -> None:
        self._status = status
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        return metrics(self._status, self._figures)


def _registry(status: DaemonStatus) -> dict[str, Any]:
    return {
        "url": status.registry,
        "connected": status.connected,
        "stale": status.stale,
        "alarms": status.alarms,
        "revision": status.snapshot.revision if status.snapshot else None,
        "snapshot_age_seconds": _rounded(status.snapshot_age),
        "snapshot_from_disk": status.snapshot_from_disk,
        "held": _held(status),
    }


def _unresolved(status: DaemonStatus) -> dict[str, str]:
    """The backends whose host names are a problem, a few of them: `/api/snapshot` has all."""
    problems = {"/".join(key): problem for key, problem in islice(status.unresolved.items(), _MOST_UNRESOLVED)}
    more = len(status.unresolved) - len(problems)
    return problems | ({"...": f"and {more} more"} if more else {})


def _held(status: DaemonStatus) -> dict[str, Any]:
    """Return the number of held records, and the first few."""
    now = time.monotonic()
    records = {
        key: {
            "cause": each.cause.value,
            "ttl": each.ttl,
            "seconds_left": None if each.until is None else _rounded(max(0.0, each.until - now)),
        }
        for key, each in islice(sorted(status.held.items(), key=itemgetter(0)), MOST_HELD)
    }
    return {"count": len(status.held), "records": records}


def _consumer(each: ConsumerStatus) -> dict[str, Any]:
    now = time.monotonic()
    return {
        **_plugin(each),
        "offered_revision": each.offered_revision,
        "applied_revision": each.applied_revision,
        "lag_seconds": _rounded(now - each.behind_since) if each.behind_since is not None else 0.0,
        "applies": each.applies,
        "failures": each.failures,
        "apply_seconds": _rounded(each.apply_seconds),
        "healthy": each.problem is None,
        "state": each.state,
        "problem": each.problem,
        "problems": dict(each.health.problems),
        "down": dict(each.health.down),
        "detail": each.health.detail,
    }


def _provider(each: RunningProviderStatus) -> dict[str, Any]:
    return {
        **_plugin(each.runner),
        "owner": each.owner,
        "ttl": each.ttl,
        "candidates": [_candidate(key, each) for key in sorted(each.runner.candidates)],
        "registered": len(each.registered),
        "problems": {**each.runner.problems, **each.runner.health.problems},
        "skipped": dict(each.runner.skipped),
        "failures": each.runner.failures,
        "ready": each.ready,
        "healthy": each.problem is None,
        "state": "failing" if each.problem is not None else each.runner.state,
        "problem": each.problem,
        "detail": each.runner.health.detail,
    }


def _candidate(key: str, provider: RunningProviderStatus) -> dict[str, Any]:
    candidate = provider.runner.candidates[key]
    return {
        **backend_document(candidate.backend),
        "address_origin": candidate.origin or None,
        "verdict": candidate.verdict.value if candidate.verdict is not None else None,
        "detail": candidate.detail,
        "registered": key in provider.registered,
        "why_not": provider.why_not(key),
    }


def _plugin(each: PluginStatus) -> dict[str, Any]:
    return {
        "name": each.name,
        "plugin": each.plugin,
        "phase": each.phase.value,
        "phase_seconds": _rounded(time.monotonic() - each.phase_since),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
