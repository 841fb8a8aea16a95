"""The admin endpoint: health, readiness, metrics and the state as JSON. Reads only; knows nothing but a status."""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, Metric, exposition
from prometheus_client.registry import Collector

from discovery.documents import snapshot_document
from discovery.errors import ConfigError
from discovery.runner import ConsumerStatus
from discovery.status import DaemonStatus, metrics

Status = Callable[[], DaemonStatus]


class Admin:
    """Serves `/healthz`, `/readyz`, `/metrics`, `/api/snapshot` and `/api/consumers`."""

    def __init__(self, status: Status) -> None:
        """`status` is asked anew for every request."""
        self._status = status
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises ConfigError, naming the address and the way out, if that cannot be."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/", self._index),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.get("/api/snapshot", self._snapshot),
                web.get("/api/consumers", self._consumers),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self.close()
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
            raise ConfigError(
                f"the admin endpoint cannot listen on {host}:{port}: {reason}; choose another with --admin, or off"
            ) from None

    async def close(self) -> None:
        """Stop listening. Idempotent."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _index(self, _: web.Request) -> web.Response:
        return web.Response(text="/healthz\n/readyz\n/metrics\n/api/snapshot\n/api/consumers\n")

    async def _healthz(self, _: web.Request) -> web.Response:
        # An unreachable registry is reported but is no illness: to be restarted for it would lose what we serve.
        status = self._status()
        healthy = not status.problems
        document = {
            "status": "ok" if healthy else "failing",
            "problems": status.problems,
            "registry": _registry(status),
            "config_error": status.config_error,
        }
        return web.json_response(document, status=200 if healthy else 503)

    async def _readyz(self, _: web.Request) -> web.Response:
        status = self._status()
        waiting = [each.name for each in status.consumers if each.applied_revision is None]
        document = {"ready": status.ready, "waiting_for": waiting, "registry": _registry(status)}
        return web.json_response(document, status=200 if status.ready else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Once(self._status()))
        body = exposition.generate_latest(registry)
        return web.Response(body=body, headers={"Content-Type": exposition.CONTENT_TYPE_LATEST})

    async def _snapshot(self, _: web.Request) -> web.Response:
        status = self._status()
        document = {"registry": _registry(status)}
        if status.snapshot is None:
            return web.json_response({**document, "error": "no snapshot yet"}, status=503)
        return web.json_response({**document, **snapshot_document(status.snapshot)})

    async def _consumers(self, _: web.Request) -> web.Response:
        return web.json_response({"consumers": [_consumer(each) for each in self._status().consumers]})


class _Once(Collector):
    def __init__(self, status: DaemonStatus) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        return metrics(self._status)


def _registry(status: DaemonStatus) -> dict[str, Any]:
    return {
        "url": status.registry,
        "connected": status.stale is None and status.snapshot is not None and not status.snapshot_from_disk,
        "stale": status.stale,
        "revision": status.snapshot.revision if status.snapshot else None,
        "snapshot_age_seconds": _rounded(status.snapshot_age),
        "snapshot_from_disk": status.snapshot_from_disk,
    }


def _consumer(each: ConsumerStatus) -> dict[str, Any]:
    now = time.monotonic()
    return {
        "name": each.name,
        "plugin": each.plugin,
        "phase": each.phase.value,
        "phase_seconds": _rounded(now - each.phase_since),
        "offered_revision": each.offered_revision,
        "applied_revision": each.applied_revision,
        "lag_seconds": _rounded(now - each.behind_since) if each.behind_since is not None else 0.0,
        "applies": each.applies,
        "failures": each.failures,
        "apply_seconds": _rounded(each.apply_seconds),
        "healthy": each.problem is None,
        "problem": each.problem,
        "detail": each.health.detail,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
