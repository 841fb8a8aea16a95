"""A fleet whose daemons know each other by certificates of one authority."""

import json
from pathlib import Path
from typing import Any

import pytest
import trustme
from daemons import Starter
from etcds import etcd
from fleets import Fleet, run_fleet

from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync

pytestmark = pytest.mark.warm

__all__ = ["etcd"]


def test_daemons_with_certificates_need_no_token(tmp_path: Path, start_daemon: Starter, etcd: EmbeddedEtcd) -> None:
    fleet, ca, other = Fleet(tmp_path, start_daemon, etcd), trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")

    def certificate(name: str, authority: trustme.CA) -> dict[str, str]:
        leaf = authority.issue_cert("127.0.0.1")
        (tmp_path / f"{name}.key").touch(0o600)
        leaf.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        leaf.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
        files = {"admin_cert": f"{name}.pem", "admin_key": f"{name}.key", "admin_client_ca": "ca.pem"}
        return {key: str(tmp_path / file) for key, file in files.items()}

    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("x" * 40)
    one = fleet("one", **certificate("one", ca), admin_token_file=str(token))  # the token is for the command
    two = fleet("two", **certificate("two", ca))
    stranger = fleet("stranger", **certificate("stranger", other))
    rows: dict[str, dict[str, Any]] = {}

    def told() -> bool:
        line = ("--json", "--admin", one.admin, "--config", fleet.config("one"))
        rows.update(
            {each["address"]: each for each in json.loads(run_fleet(*line).stdout or '{"daemons": []}')["daemons"]}
        )
        states = {one.admin: "ok", two.admin: "ok", stranger.admin: "unreachable"}
        return {address: each["state"] for address, each in rows.items()} == states

    eventually_sync(told, "each daemon of the authority", timeout=60)
    assert {each["scheme"] for each in rows.values()} == {"https"}
    assert rows[stranger.admin]["reason"].startswith("TLS: ")
