"""The command prints addresses."""

from pathlib import Path

import pytest

from discovery_addresses import command


def test_each_backend_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web/a").write_text("10.0.0.1:8001")
    (tmp_path / "web/b").write_text("10.0.0.2:8001")
    assert command("web", registry=f"file://{tmp_path}") == 0
    assert capsys.readouterr().out == "10.0.0.1:8001\n10.0.0.2:8001\n"


def test_a_service_without_backends_is_told_by_the_exit_code(tmp_path: Path) -> None:
    assert command("web", registry=f"file://{tmp_path}") == 1
