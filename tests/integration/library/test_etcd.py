"""The library with etcd: over TLS, with the settings as arguments, and across forks of a process that has used it."""

import os
from pathlib import Path

import pytest
import trustme

import discovery
from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import eventually_sync, require_program

pytestmark = pytest.mark.exhaustive


def test_certificates_are_given_as_options(tmp_path: Path) -> None:
    require_program("etcd")
    authority = trustme.CA()
    options = {name: tmp_path / f"{name}.pem" for name in ("ca", "cert", "key")}
    authority.cert_pem.write_to_path(options["ca"])
    leaf = authority.issue_cert("127.0.0.1", "localhost")
    leaf.cert_chain_pems[0].write_to_path(options["cert"])
    leaf.private_key_pem.write_to_path(options["key"])
    certificate = ("--cert-file", str(options["cert"]), "--key-file", str(options["key"]))
    trust = ("--client-cert-auth", "--trusted-ca-file", str(options["ca"]))
    with EmbeddedEtcd(*certificate, *trust, scheme="https") as etcd:
        url = f"etcds://{etcd.endpoint}"
        with (
            discovery.registered(url, "web", "127.0.0.1:8001", options=options),
            discovery.follow(url, "web", options=options) as follower,
        ):
            assert follower.snapshot is not None
            assert [each.port for each in follower.snapshot.backends()] == [8001]


def test_a_process_that_follows_etcd_forks_without_harm() -> None:
    require_program("etcd")
    with (
        EmbeddedEtcd() as etcd,
        discovery.registered(etcd.url, "web", "127.0.0.1:8001") as registration,
        discovery.follow(etcd.url, "web") as follower,
    ):
        for _ in range(10):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    status = next(iter(follower)) != follower.snapshot or not registration.is_registered
                finally:
                    os._exit(status)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        registration.update(weight=5)
        eventually_sync(lambda: [each.weight for each in follower.snapshot.backends()] == [5], "the parent to go on")
