"""Checks of an external HAProxy's configuration: by the local HAProxy, by a command, or by nothing but the reload."""

import re
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from haproxy_driver import Drive

from discovery import ApplyError, Backend, Snapshot, Update, Validation, diff
from discovery.testing import free_port
from discovery_haproxy.consumer import HAProxyConsumer

Origins = tuple[Backend, ...]
ABSENT = Path("/nonexistent/haproxy")
BROKEN = {"global_lines": ["no-such-keyword here"]}


def options(path: Path, validate: object, **config: Any) -> dict[str, Any]:
    return {
        "binary": ABSENT,
        "services": {"web": {"bind": f"127.0.0.1:{free_port()}"}},
        "external": {"path": path, "command": ["true"], "validate": validate},
        **config,
    }


async def validated(consumer: HAProxyConsumer) -> Validation:
    """Return what `config check` and `--dry-run` report."""
    snapshot = Snapshot.of(1, ())
    return await consumer.validate(Update(snapshot, None, diff(None, snapshot)))


async def test_no_haproxy_is_needed_without_a_check(drive: Drive, tmp_path: Path, origins: Origins) -> None:
    path = tmp_path / "haproxy.cfg"
    async with drive(**options(path, "none", **BROKEN)) as driver:
        await driver.apply(origins[0])
        found = await validated(driver.consumer)
        assert f"+    server {origins[1].address} " in await driver.preview(origins[1])
    assert "no-such-keyword" in path.read_text()
    assert found.faults == ()
    assert found.unchecked == ('the configuration as HAProxy reads it: external.validate is "none"',)


async def test_a_command_checks_the_configuration(
    drive: Drive, tmp_path: Path, haproxy: Path, origins: Origins
) -> None:
    path = tmp_path / "haproxy.cfg"
    options_ = options(path, [str(haproxy), "-c", "-f", "/dev/stdin"])
    async with drive(**options_) as driver:
        await driver.apply(origins[0])
        files = str(path), str(tmp_path / "haproxy.routes.map")
        assert await validated(driver.consumer) == Validation(files=files)
        assert await driver.consumer.reconfigure(driver.configured(**BROKEN))
        await driver.apply(origins[1])
        refused = (await driver.consumer.health()).detail
        found = await validated(driver.consumer)
    assert re.search(r"global settings refused.*no-such-keyword here.*unknown keyword", refused)
    assert "no-such-keyword" not in path.read_text()
    assert origins[1].address in path.read_text()
    (fault,) = found.faults
    assert fault.startswith(f"{haproxy} refuses line ")
    assert found.unchecked == ()


async def test_the_exit_status_is_the_verdict_and_the_output_is_the_reason(
    drive: Drive, tmp_path: Path, origins: Origins
) -> None:
    path, given = tmp_path / "haproxy.cfg", tmp_path / "given"
    checker = tmp_path / "check"
    checker.write_text(f'#!{sys.executable}\nimport sys\nopen(sys.argv[1], "w").write(sys.stdin.read())\n')
    checker.chmod(stat.S_IRWXU)
    async with drive(**options(path, [str(checker), str(given)])) as driver:
        await driver.apply(origins[0])
        text = given.read_text()
        assert text.startswith("# Written by discovery")
        assert f"127.0.0.1:{origins[0].port}" in text
        with checker.open("a") as file:
            file.write('print("\\nno peer\\nin here", file=sys.stderr); exit(3)\n')
        with pytest.raises(ApplyError, match=rf"{checker} refuses the new configuration: exit 3: no peer$"):
            await driver.apply(origins[1])


async def test_a_missing_command_fails_the_apply_and_is_listed_as_unchecked(
    drive: Drive, tmp_path: Path, origins: Origins
) -> None:
    async with drive(**options(tmp_path / "haproxy.cfg", "none")) as driver:
        config = driver.configured(external={"path": "/x", "command": ["true"], "validate": ["no-such-program"]})
        consumer = HAProxyConsumer(config, driver.consumer.context)
        found = await validated(consumer)
        with pytest.raises(ApplyError, match="external.validate names no-such-program, which is not a program"):
            await consumer.setup()
    assert found.faults == ()
    assert "external.validate names no-such-program, which is not a program" in found.unchecked[0]
