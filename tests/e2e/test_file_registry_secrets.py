"""Point 20: who may write one service's directory of a file registry is not shown what the daemon's user may read."""

import os
from pathlib import Path

import pytest
import warm
from daemons import RecordFiles, Starter

from discovery.testing import eventually_sync, within

pytestmark = pytest.mark.warm

SECRET = "root:$6$rounds=5000$hunter2:19000:0:99999:7:::"


@pytest.fixture
def hostile(tmp_path: Path, file_registry: RecordFiles) -> str:
    """A registry of one honest service, and one whose directory a stranger may write."""
    url, write = file_registry
    write("web/b1", "127.0.0.1:8080")
    write("theirs/text", SECRET)
    write("theirs/json", f'{{"host": "{SECRET}')
    service = tmp_path / "registry/theirs"
    (tmp_path / "shadow").write_text(SECRET)
    (service / "link").symlink_to(tmp_path / "shadow")
    (service / "environ").symlink_to("/proc/self/environ")
    (service / "loop").symlink_to("loop")
    os.mkfifo(service / "pipe")
    return str(url)


def test_a_daemon_shows_no_contents_and_serves_the_others(tmp_path: Path, start_daemon: Starter, hostile: str) -> None:
    start_daemon.environment["HUNTER"] = "hunter2"
    daemon = start_daemon("--registry", hostile, "--plugin", "tcpproxy", "--set",
                          f"tcpproxy.listen.web={tmp_path / 'l.sock'}")  # fmt: skip
    rejected = {f"theirs/{name}" for name in ("text", "json", "link", "environ", "loop", "pipe")}

    def reasons_given() -> dict[str, str]:
        return {each["key"]: each["reason"] for each in daemon.get("/api/snapshot")[1]["rejected"]}

    eventually_sync(lambda: reasons_given().keys() == rejected, "every record to be read", timeout=60)
    document, reasons = daemon.get("/api/snapshot")[1], reasons_given()
    assert "leads out of the registry's directory" in reasons["theirs/link"]
    assert "a pipe" in reasons["theirs/pipe"]
    assert document["services"].keys() == {"web"}
    assert document["registry"]["stale"] is None
    eventually_sync(lambda: "theirs" in daemon.log)
    assert "hunter2" not in daemon.log + str(document)


@pytest.mark.costly
def test_the_command_line_shows_no_contents(hostile: str) -> None:
    for command in (["services"], ["services", "--json"]):
        environment = {**os.environ, "HUNTER": "hunter2"}
        done = warm.run(*command, "--registry", hostile, env=environment, timeout=within(60))
        assert "web" in done.stdout
        assert "hunter2" not in done.stdout + done.stderr
