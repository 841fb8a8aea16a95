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
        ({"bind": []}, "the list of addresses is empty"),
        (web(bind={"address": "127.0.0.1:1", "options": "ssl"}), "'options' of a bind is an option of the consumer"),
        (web(bind={"address": "127.0.0.1:1", "client_ca": "/x"}), "give the bind a 'certificate'"),
        (web(backend_tls={"ca": "/x"}), "name"),
        (web(backend_tls={"ca": "/x", "name": "a b"}), "is not the name or the address in a certificate"),
        (
            {
                "bind": {"address": "127.0.0.1:1", "certificate": "/x", "client_ca": "/ca"},
                "services": {
                    "a": {"hosts": "a"},
                    "b": {"hosts": "b", "bind": {"address": "127.0.0.1:1", "certificate": "/x"}},
                },
            },
            "services 'a' and 'b' share 127.0.0.1:1, but not the same 'client_ca'",
        ),
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
    assert [bind.address for bind in config.bind] == ["127.0.0.1:8080"]


def test_services_that_share_an_address_share_their_certificates() -> None:
    first = {"address": "127.0.0.1:1", "certificate": ["/a.pem", "/b.pem"]}
    second = {"address": "127.0.0.1:1", "certificate": "/b.pem"}
    services = {"a": {"hosts": "a", "bind": first}, "b": {"hosts": "b", "bind": [second, "127.0.0.1:2"]}}
    listeners = XdsConfig.model_validate({"services": services}).listeners
    assert {bind: tls.certificates for bind, tls in listeners.items()} == {
        "127.0.0.1:1": ("/a.pem", "/b.pem"),
        "127.0.0.1:2": (),
    }
