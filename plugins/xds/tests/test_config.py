"""Options of the consumer `xds`: what is refused, and the reason."""

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from discovery_xds.config import XdsConfig


def web(**options: Any) -> dict[str, Any]:
    return {"services": {"web": options}}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"listen": "18000"}, "is not HOST:PORT"),
        ({"listen": "unix:/run/x.sock"}, "is not HOST:PORT"),
        ({"services": {"a b": {}}}, "a b"),
        (web(balance="first"), "is not a balance algorithm of Envoy"),
        (web(balance="rdp-cookie"), "is not a balance algorithm of Envoy"),
        (web(bind={"address": "127.0.0.1:1", "certificate": "/x"}), "is an address alone"),
        (web(mode="tcp", hosts="a"), "'hosts' needs mode"),
        (web(mode="tcp", balance="uri"), "needs mode"),
        (web(mode="tcp", http2=True), "'http2' needs mode"),
        (web(check={"method": "GET"}), "'method' is for an HTTP check"),
        (web(check={"path": "/", "send": "x"}), "are for a TCP check"),
        (web(check={"send": "x"}), "has no effect without 'expect'"),
        (web(check={"path": "/", "status": "999x"}), "is not an HTTP status"),
        (web(path_prefix="api"), "is not a path"),
        ({"services": {"a": {}, "b": {}}}, "both take everything"),
        ({"services": {"a": {"mode": "tcp"}, "b": {}}}, "only 'a' is in tcp mode"),
        ({"tls": {"certificate": "/x"}}, "key"),
        ({"locality": {"zone": "a b"}}, "is not a label's name"),
        ({"nonsense": 1}, "Extra inputs"),
    ],
)
def test_an_invalid_configuration_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        XdsConfig.model_validate(options)
    assert reason in str(caught.value)


def test_loading_the_plugin_loads_no_messages_of_the_envoy_api() -> None:
    program = "import discovery_xds.plugin, discovery_xds.commands, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {"envoy", "grpc", "google.protobuf"}.isdisjoint(run.stdout.split())


def test_the_xds_port_is_on_this_machine_alone_unless_configured() -> None:
    config = XdsConfig()
    assert config.listen == "127.0.0.1:18000"
    assert config.bind == ("127.0.0.1:8080",)
