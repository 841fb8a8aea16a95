"""nginx, httpd and Caddy in trouble: a taken address, a crash, and a daemon that goes."""

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from sampling import sampled
from template_driving import driven
from template_origins import ask, origin
from template_proxies import PROXIES, require

from discovery import ApplyError, Backend
from discovery.testing import eventually, free_port, within
from discovery_template.proxies.consumer import ProxyConsumer


@pytest.mark.parametrize("kind", sampled(PROXIES), ids=lambda kind: kind.file_name)
async def test_a_change_that_cannot_listen_is_rolled_back(kind: type[ProxyConsumer[Any]], tmp_path: Path) -> None:
    require(kind)
    port = free_port()
    with origin("web") as web, socket.create_server(("127.0.0.1", 0)) as taken:
        backend = Backend("web", "1", "127.0.0.1", web)
        config: dict[str, Any] = {"bind": f"127.0.0.1:{port}", "services": {"web": {}}}
        async with driven(kind, config, tmp_path) as driver:
            await driver.apply(backend)
            former = driver.consumer.path.read_text()
            more = {"api": {"bind": f"127.0.0.1:{taken.getsockname()[1]}"}}
            faulty = {**config, "prove_timeout": within(1), "services": {"web": {}, **more}}
            wrong = kind.Config.model_validate(faulty)
            right = driver.consumer.config
            assert await driver.consumer.reconfigure(wrong)
            with pytest.raises(ApplyError, match=rf"(?i)in use.*: address already in use over TCP by .*{os.getpid()}"):
                await driver.apply(backend)
            assert driver.consumer.path.read_text() == former
            await eventually(lambda: ask(port) == "web /", "the former configuration to serve")
            assert await driver.consumer.reconfigure(right)
            await driver.apply(backend)
            assert (await driver.consumer.health()).ok


@pytest.mark.parametrize("kind", sampled(PROXIES), ids=lambda kind: kind.file_name)
async def test_a_program_that_is_killed_is_started_again_and_one_that_is_left_is_adopted(
    kind: type[ProxyConsumer[Any]], tmp_path: Path
) -> None:
    require(kind)
    port = free_port()
    config = {"bind": f"127.0.0.1:{port}"}
    with origin("web") as web, origin("other") as other:
        backend = Backend("web", "1", "127.0.0.1", web)
        async with driven(kind, config, tmp_path) as driver:
            await driver.apply(backend)
            killed = (await driver.consumer.inspect())["pid"]
            os.kill(killed, signal.SIGKILL)  # and not the workers, which hold the sockets
            await eventually(lambda: driver.applies_requested > 0, "the end of the program to be noticed")
            assert not (await driver.consumer.health()).ok
            await driver.apply(backend)
            pid = (await driver.consumer.inspect())["pid"]
            assert pid != killed
            await driver.consumer.hand_over()
        assert await asyncio.to_thread(ask, port) == "web /"
        async with driven(kind, config, tmp_path) as driver:
            await driver.apply(Backend("web", "1", "127.0.0.1", other))
            assert (await driver.consumer.inspect())["pid"] == pid
            await eventually(lambda: ask(port) == "other /", "the changed backend to answer")
            await driver.consumer.hand_over()
        assert await kind.end_orphans(driver.consumer.context) == {pid: driver.consumer.find().name}
        assert await kind.end_orphans(driver.consumer.context) == {}
        assert await asyncio.to_thread(ask, port) == "ConnectionRefusedError"


@pytest.mark.parametrize("kind", sampled(PROXIES), ids=lambda kind: kind.file_name)
async def test_a_start_that_cannot_listen_tells_once_why_and_who_listens(
    kind: type[ProxyConsumer[Any]], tmp_path: Path
) -> None:
    require(kind)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        async with driven(kind, {"bind": bind, "prove_timeout": within(10)}, tmp_path) as driver:
            with pytest.raises(ApplyError, match="(?i)in use") as told:
                await driver.apply(Backend("web", "1", "127.0.0.1", 80))
    reason = str(told.value)
    assert f"{bind}: address already in use over TCP by " in reason
    assert f"process {os.getpid()}" in reason
    assert reason.count(" / ") <= 2, "the last lines of the program, a single time"
