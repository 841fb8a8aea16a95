"""The library finds its settings as the command line does."""

from pathlib import Path

import pytest

from discovery import ConfigError
from discovery.library.settings import place


def test_without_anything_it_is_etcd_on_this_machine(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").write_text("")
    assert place(config=tmp_path / "empty.toml", environment={}).registry.text == "etcd://127.0.0.1:2379"


def test_an_argument_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "discovery.toml"
    file.write_text('run_dir = "/file/run"\n[registry]\nurl = "etcds://file:1"\nca = "/file/ca"\nusername = "me"\n')
    environment = {"DISCOVERY_CONFIG": str(file)}
    assert place(environment=environment).registry.text == "etcds://me@file:1?ca=%2Ffile%2Fca"
    assert place(environment=environment).run_dir == Path("/file/run")
    environment |= {"DISCOVERY_REGISTRY": "etcd://environment:1", "DISCOVERY_RUN_DIR": "/environment/run"}
    assert place(environment=environment).registry.text == "etcd://environment:1"
    assert place(environment=environment).run_dir == Path("/environment/run")
    found = place("etcd://argument:1", run_dir="/argument/run", environment=environment)
    assert (found.registry.text, found.run_dir) == ("etcd://argument:1", Path("/argument/run"))


def test_a_login_and_options_are_laid_over_the_url(tmp_path: Path) -> None:
    file = tmp_path / "empty.toml"
    file.write_text("")
    options = {"ca": Path("/ca.pem"), "server_name": "b"}
    found = place(
        "etcds://h:1?server_name=a", username="me", password="p@ss", options=options, config=file, environment={}
    )
    assert found.registry.text == "etcds://me:p%40ss@h:1?server_name=b&ca=%2Fca.pem"
    assert "p@ss" not in repr(found)


def test_a_file_that_is_wrong_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing.toml: cannot be read"):
        place(config=tmp_path / "missing.toml", environment={})
