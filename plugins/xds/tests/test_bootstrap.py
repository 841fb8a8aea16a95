"""`discovery xds bootstrap`: what is printed, and what is a usage error."""

import json
from pathlib import Path

import pytest

from discovery.cli import main


def printed(capfd: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert main(["xds", "bootstrap", *arguments]) == 0
    document = json.loads(capfd.readouterr().out)
    assert isinstance(document, dict)
    return document


def test_a_grpc_bootstrap_names_the_server_and_the_node(capfd: pytest.CaptureFixture[str]) -> None:
    assert printed(capfd, "--grpc", "--node-id", "n1", "--zone", "b") == {
        "xds_servers": [
            {
                "server_uri": "127.0.0.1:18000",
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }
        ],
        "node": {"id": "n1", "cluster": "discovery", "locality": {"zone": "b"}},
    }


def test_tls_needs_the_files_of_the_client(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    files = ["--ca", str(tmp_path / "ca"), "--certificate", str(tmp_path / "crt"), "--key", str(tmp_path / "key")]
    grpc_text = json.dumps(printed(capfd, "--grpc", *files))
    envoy_text = json.dumps(printed(capfd, "--envoy", "--server", "xds.example:18000", *files))
    for name in ("ca", "crt", "key"):
        assert str(tmp_path / name) in grpc_text
        assert str(tmp_path / name) in envoy_text
    assert '"sni": "xds.example"' in envoy_text
    assert '"STRICT_DNS"' in envoy_text


def test_envoy_has_an_admin_port_and_another_protocol_on_request(capfd: pytest.CaptureFixture[str]) -> None:
    plain = printed(capfd, "--envoy")
    assert "admin" not in plain
    assert '"DELTA_GRPC"' in json.dumps(plain)
    other = printed(capfd, "--envoy", "--admin", "127.0.0.1:9902", "--sotw")
    assert "admin" in other
    assert '"api_type": "GRPC"' in json.dumps(other)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "give either --envoy or --grpc"),
        (["--envoy", "--grpc"], "give either --envoy or --grpc"),
        (["--grpc", "--admin", "127.0.0.1:1"], "--admin is for Envoy"),
        (["--grpc", "--sotw"], "--sotw is for Envoy"),
        (["--envoy", "--key", "/x"], "are for TLS"),
        (["--envoy", "--ca", "/x", "--key", "/x"], "belong together"),
        (["--envoy", "--server", "here"], "--server 'here' is not HOST:PORT"),
    ],
)
def test_wrong_arguments_are_usage_errors(arguments: list[str], reason: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["xds", "bootstrap", *arguments]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert reason in err
