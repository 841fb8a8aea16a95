"""The consumers `template`, `nginx`, `httpd` and `caddy` pass the contract of consumers."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from template_sabotage import replaced_by_a_directory

from discovery import AnyConsumer
from discovery.testing import ConsumerContract, free_port
from discovery_template.consumer import TemplateConsumer
from discovery_template.proxies.caddy import CaddyConsumer
from discovery_template.proxies.httpd import HttpdConsumer
from discovery_template.proxies.nginx import NginxConsumer


class TestTemplate(ConsumerContract):
    consumer: ClassVar[type[AnyConsumer]] = TemplateConsumer

    @pytest.fixture(autouse=True)
    def directory(self, tmp_path: Path) -> None:
        """The directory of the files, which is declared by the configuration."""
        self.place = tmp_path

    @property
    def config(self) -> Mapping[str, Any]:  # type: ignore[override]
        return {"files": [{"template": "builtin:json", "file": str(self.place / "services.json")}]}

    def world(self, run_dir: Path) -> object:
        return {path.name: path.read_bytes() for path in self.place.iterdir()}

    def sabotage(self, run_dir: Path) -> AbstractContextManager[object]:
        return replaced_by_a_directory(self.place / "services.json")


class _OfProxies(ConsumerContract):
    config: ClassVar[Mapping[str, Any]] = {"bind": f"127.0.0.1:{free_port()}"}
    file: ClassVar[str]

    def world(self, run_dir: Path) -> object:
        return (run_dir / self.file).read_text()

    def sabotage(self, run_dir: Path) -> AbstractContextManager[object]:
        return replaced_by_a_directory(run_dir / self.file)


class TestNginx(_OfProxies):
    consumer: ClassVar[type[AnyConsumer]] = NginxConsumer
    file: ClassVar[str] = "nginx.conf"


class TestHttpd(_OfProxies):
    consumer: ClassVar[type[AnyConsumer]] = HttpdConsumer
    file: ClassVar[str] = "httpd.conf"


class TestCaddy(_OfProxies):
    consumer: ClassVar[type[AnyConsumer]] = CaddyConsumer
    file: ClassVar[str] = "caddy.json"
