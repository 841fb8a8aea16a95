"""dnsperf as many clients of the server."""

import re
import subprocess
from pathlib import Path

import pytest
from daemons import RecordFiles

from discovery.testing import eventually_sync, require_program, within

from .resolving import answers

pytestmark = [pytest.mark.warm, pytest.mark.swap]


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_many_clients_lose_no_query_while_a_backend_changes(
    port: int, transport: str, file_registry: RecordFiles, tmp_path: Path
) -> None:
    _, put = file_registry
    questions = tmp_path / "questions"
    names = ("web.{} A", "web.{} AAAA", "_web._tcp.{} SRV", "x.{} A")
    questions.write_text("".join(f"{name.format('service.internal')}\n" for name in names))
    command = [
        require_program("dnsperf", wheel=False),
        "-s",
        "127.0.0.1",
        "-p",
        f"{port}",
        "-d",
        f"{questions}",
        "-l",
        "3",
    ]
    with subprocess.Popen([*command, "-m", transport, "-c", "20", "-e"], stdout=subprocess.PIPE, text=True) as asking:
        for number in range(20):
            put("web/a", f"10.0.0.{number + 1}:80")
            eventually_sync(lambda number=number: answers(port, "web", "A") == [f"10.0.0.{number + 1}"])
        told, _ = asking.communicate(timeout=within(60))
    assert asking.returncode == 0
    assert re.search(r"Queries lost: +0 ", told)
    codes = dict(re.findall(r"(\w+) (\d+) \(", re.findall(r"Response codes: +(.*)", told)[0]))
    assert set(codes) == {"NOERROR", "NXDOMAIN"}
    assert sum(map(int, codes.values())) > 1000
