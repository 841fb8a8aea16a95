"""nginx follows the registry by the commands of a user, and outlives its daemon."""

import signal
from pathlib import Path

import pytest
from daemons import RecordFiles, Starter
from template_origins import ask, origin

from discovery.testing import eventually_sync, free_port, require_program, within

pytestmark = [pytest.mark.warm, pytest.mark.swap]


def test_nginx_is_taken_over_by_the_next_daemon_and_ends_with_the_last(
    start_daemon: Starter, file_registry: RecordFiles, tmp_path: Path
) -> None:
    require_program("nginx")
    registry, write = file_registry
    port = free_port()
    arguments = ("--registry", registry, "--plugin", "nginx", "--set", f"nginx.services.web.bind=127.0.0.1:{port}")
    with origin("one") as one, origin("two") as two:
        write("web/a", f"127.0.0.1:{one}")
        first = start_daemon(*arguments, run_dir=tmp_path / "run")
        eventually_sync(first.is_ready, timeout=20)
        assert ask(port) == "one /"
        first.process.send_signal(signal.SIGKILL)
        first.process.wait(within(20))
        assert ask(port) == "one /"
        second = start_daemon(*arguments, run_dir=tmp_path / "run")
        eventually_sync(second.is_ready, timeout=20)
        assert "took over the program of an earlier daemon" in second.log
        write("web/a", f"127.0.0.1:{two}")
        eventually_sync(lambda: ask(port) == "two /", "the changed backend to answer")
        assert second.stop() == 0
        assert ask(port) == "ConnectionRefusedError"
