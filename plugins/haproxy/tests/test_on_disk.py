"""The comparison of installed files with a configuration, which reads a file again only if the file has changed."""

from pathlib import Path

import pytest

from discovery.testing import backend, snapshot
from discovery_haproxy.deployment.on_disk import OnDisk
from discovery_haproxy.options.config import HAProxyConfig
from discovery_haproxy.rendering.render import Rendered, Runtime, render
from discovery_haproxy.text.seal import seal


@pytest.fixture
def rendered(tmp_path: Path) -> Rendered:
    services = {name: {"bind": "127.0.0.1:80", "hosts": f"{name}.example"} for name in ("a", "b")}
    config = HAProxyConfig.model_validate({"services": services})
    return render(config, snapshot(backend("a")), Runtime(route_map=tmp_path / "map"), {})


@pytest.mark.parametrize("is_sealed", [False, True])
@pytest.mark.parametrize("name", ["haproxy.cfg", "map"])
def test_an_edited_or_missing_file_is_noticed(tmp_path: Path, rendered: Rendered, name: str, is_sealed: bool) -> None:
    config, edited = tmp_path / "haproxy.cfg", tmp_path / name
    config.write_text(seal(rendered.text) if is_sealed else rendered.text)
    (tmp_path / "map").write_text(rendered.maps[tmp_path / "map"])
    on_disk = OnDisk()
    assert on_disk.has(config, rendered)
    assert on_disk.has(config, rendered)
    text = edited.read_text()
    edited.write_text(text + "# edited")
    assert not on_disk.has(config, rendered)
    edited.write_text(text)
    assert on_disk.has(config, rendered)
    edited.unlink()
    assert not on_disk.has(config, rendered)


def test_another_configuration_is_compared_again(tmp_path: Path, rendered: Rendered) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(rendered.text)
    (tmp_path / "map").write_text(rendered.maps[tmp_path / "map"])
    on_disk = OnDisk()
    assert on_disk.has(config, rendered)
    other = render(HAProxyConfig(), snapshot(), Runtime(), {})
    assert not on_disk.has(config, other)
    assert on_disk.has(config, rendered)
