"""What an ambassador tells of itself: backends that refuse connections, in its log, and its admin endpoint."""

import json
import re
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from ambassadors import TIMEOUT, Directory, StartCommand, connect, name_at
from proxies import Serve, answers

from discovery.testing import eventually_sync, free_port, within


def get(admin: str, path: str) -> tuple[int, str]:
    """Status and body of an answer of the admin endpoint; status 0 while there is none."""
    try:
        with urllib.request.urlopen(f"http://{admin}{path}", timeout=within(TIMEOUT)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def document(admin: str, path: str) -> Any:
    """The answer of the admin endpoint as JSON."""
    status, text = get(admin, path)
    assert status == 200, text
    return json.loads(text)


def knock(port: int) -> None:
    """A client that ends, whether or not it is served."""
    with suppress(OSError), connect(port) as client:
        client.sendall(b"ping")


def test_a_refusing_backend_is_logged_once_with_the_reason_and_its_recovery_with_the_time(
    start_command: StartCommand, directory: Directory, named: Serve
) -> None:
    port, dead = free_port(), free_port()
    directory.put("web", dead)
    run = start_command("ambassador", "web", str(port), "--registry", directory.url)
    run.logs("running")

    def is_told() -> bool:
        knock(port)
        return "a backend is down" in run.log

    eventually_sync(is_told, timeout=TIMEOUT)
    for _ in range(20):
        knock(port)
    named("back", port=dead)
    answers(port, "back")
    run.logs("a backend is no longer down")
    lines = [line for line in run.log.splitlines() if "web/" in line]
    assert len(lines) == 2, lines
    address = f"address=127.0.0.1:{dead}"
    assert re.search(rf"\[warning\].* a backend is down {address} .*key=web/\S+ .*Connection refused", lines[0])
    assert re.search(rf"\[info\].* a backend is no longer down {address} .*down_for='\d+\.\d s'", lines[1])


def test_an_ambassador_has_an_admin_endpoint_if_it_is_asked_for(
    start_command: StartCommand, directory: Directory, named: Serve
) -> None:
    directory.put("web", named("it").port)
    port, admin = free_port(), f"127.0.0.1:{free_port()}"
    run = start_command("ambassador", "web", str(port), "--registry", directory.url, "--admin", admin)
    answers(port, "it")
    eventually_sync(lambda: get(admin, "/readyz")[0] == 200, timeout=TIMEOUT)
    assert get(admin, "/healthz")[0] == 200
    (consumer,) = document(admin, "/api/consumers")["consumers"]
    assert consumer["plugin"] == "tcpproxy"
    details = document(admin, f"/api/consumers/{consumer['name']}")
    assert [each["addresses"][0]["address"] for each in details["listeners"]] == [f"0.0.0.0:{port}"]
    (record,) = document(admin, "/api/explain?service=web")["records"]
    assert record["used"]
    assert (
        f'discovery_tcpproxy_connects_total{{consumer="{consumer["name"]}",listener="web"}}'
        in get(admin, "/metrics")[1]
    )
    assert run.stop() == 0
    assert get(admin, "/healthz")[0] == 0


def test_a_successor_has_the_admin_endpoint_of_its_predecessor(
    start_command: StartCommand, directory: Directory, named: Serve
) -> None:
    directory.put("web", named("it").port)
    port, admin = free_port(), f"127.0.0.1:{free_port()}"
    arguments = ("ambassador", "web", str(port), "--registry", directory.url, "--admin", admin)
    first = start_command(*arguments)
    eventually_sync(lambda: get(admin, "/readyz")[0] == 200, timeout=TIMEOUT)
    start_command(*arguments, "--replace")
    assert first.process.wait(within(TIMEOUT)) == 0
    eventually_sync(lambda: get(admin, "/readyz")[0] == 200, timeout=TIMEOUT)
    assert name_at(port) == "it"


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:0", ""])
def test_an_address_that_cannot_be_is_refused(address: str, start_command: StartCommand, directory: Directory) -> None:
    run = start_command("ambassador", "web", str(free_port()), "--registry", directory.url, "--admin", address)
    assert run.process.wait(within(TIMEOUT)) == 2
    assert "admin" in run.log


def test_an_address_in_use_is_told_with_its_holder(
    start_command: StartCommand, directory: Directory, named: Serve
) -> None:
    taken = f"127.0.0.1:{named('it').port}"
    run = start_command("ambassador", "web", str(free_port()), "--registry", directory.url, "--admin", taken)
    assert run.process.wait(within(TIMEOUT)) == 2
    assert f"the admin endpoint cannot listen on {taken}" in run.log


def test_the_environment_of_other_commands_opens_no_endpoint(
    start_command: StartCommand, directory: Directory, named: Serve
) -> None:
    directory.put("web", named("it").port)
    port, admin = free_port(), f"127.0.0.1:{free_port()}"
    start_command("ambassador", "web", str(port), "--registry", directory.url, DISCOVERY_ADMIN=admin)
    answers(port, "it")
    assert get(admin, "/healthz")[0] == 0


def test_an_endpoint_for_other_machines_needs_a_token(
    start_command: StartCommand, directory: Directory, named: Serve, short_path: Path
) -> None:
    directory.put("web", named("it").port)
    port, admin_port = free_port(), free_port()
    arguments = ("ambassador", "web", str(port), "--registry", directory.url, "--admin", f"0.0.0.0:{admin_port}")
    bare = start_command(*arguments)
    assert bare.process.wait(within(TIMEOUT)) == 2
    assert "--admin-token-file" in bare.log
    token = short_path / "token"
    token.touch(0o600)
    token.write_text("a-token-that-is-long-enough-for-the-endpoint\n")
    start_command(*arguments, "--admin-token-file", str(token))
    admin = f"127.0.0.1:{admin_port}"
    eventually_sync(lambda: get(admin, "/readyz")[0] == 200, timeout=TIMEOUT)
    assert get(admin, "/api/status")[0] == 401
    asking = start_command("status", "--admin", admin, "--admin-token-file", str(token), "--config", "/dev/null")
    assert asking.process.wait(within(TIMEOUT)) == 0, asking.log
    refused = start_command("status", "--admin", admin, "--config", "/dev/null")
    assert refused.process.wait(within(TIMEOUT)) == 1
