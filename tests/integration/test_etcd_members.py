"""The members of a real cluster of etcd: told by each that answers, and of each that does not, why."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from etcd_versions import VERSIONS, etcd_program, every_etcd
from etcds import opened
from sampling import sampled

from discovery.registry import Membership, TellsMembers
from discovery.system.embedded import EmbeddedEtcd
from discovery.testing import following
from discovery.testing.etcd import EtcdCluster, EtcdWriter

__all__ = ["etcd_program", "every_etcd"]


@pytest.fixture
def cluster(etcd_program: Path) -> Iterator[EtcdCluster]:
    with EtcdCluster(program=etcd_program) as cluster:
        yield cluster


async def told(url: str) -> Membership:
    async with opened(url) as registry:
        assert isinstance(registry, TellsMembers)
        return await registry.members()


@pytest.mark.parametrize("etcd_program", sampled(VERSIONS), indirect=True)
async def test_each_member_is_told_and_one_that_stops_as_well(cluster: EtcdCluster) -> None:
    endpoints = [(each.endpoint,) for each in cluster.members]
    async with (
        opened(f"{cluster.url}/services") as registry,
        following(registry) as follower,
        EtcdWriter(f"{cluster.url}/services") as writer,
    ):
        assert isinstance(registry, TellsMembers)
        whole = await registry.members()
        assert whole.unknown is None
        assert [(each.name, each.endpoints) for each in whole.members] == list(
            zip(("m0", "m1", "m2"), endpoints, strict=True)
        )
        assert sorted(str(each.leads) for each in whole.members) == ["False", "False", "True"]
        for each in whole.members:
            assert (each.votes, each.asked, each.reason) == (True, True, None)
            assert (each.version or "").startswith("3.")
            assert (each.size or 0) > 0

        at = next(number for number, each in enumerate(whole.members) if not each.leads)
        cluster.members[at].send_signal(signal.SIGSTOP)
        hung = await registry.members()
        assert hung.members[at].reason == "no answer within 1 s"
        cluster.members[at].send_signal(signal.SIGKILL)
        cluster.members[at].stop()
        ended = await registry.members()
        assert "connection refused" in (ended.members[at].reason or "")
        for membership in (hung, ended):
            assert membership.unknown is None, "the others tell the list"
            gone = membership.members[at]
            assert (gone.name, gone.endpoints) == (f"m{at}", endpoints[at])
            assert (gone.leads, gone.version, gone.size) == (False, None, None)
            assert [each.reason for each in membership.members if each is not gone] == [None, None]
        await writer.change({"web/a": b"10.0.0.1:80"})
        await follower.sees("web/a", b"10.0.0.1:80")


@pytest.mark.parametrize("etcd_program", sampled(VERSIONS), indirect=True)
async def test_a_member_that_the_url_does_not_name_is_shown_and_not_asked(cluster: EtcdCluster) -> None:
    membership = await told("etcd://" + ",".join(each.endpoint for each in cluster.members[:2]))
    *asked, other = membership.members
    assert [each.asked for each in asked] == [True, True]
    assert (other.name, other.endpoints, other.asked) == ("m2", (cluster.members[2].endpoint,), False)
    assert other.version is None
    assert "does not name" in (other.reason or "")


async def test_no_user_needs_a_permission_and_without_a_user_nothing_fails(every_etcd: EmbeddedEtcd) -> None:
    for command in (
        ("role", "add", "reader"),
        ("role", "grant-permission", "--prefix=true", "reader", "read", "/services"),
        ("user", "add", "reader:pass-reader"),
        ("user", "grant-role", "reader", "reader"),
        ("user", "add", "root:root"),
        ("user", "grant-role", "root", "root"),
        ("auth", "enable"),
    ):
        every_etcd.ctl(*command)
    of_reader = await told(f"etcd://reader:pass-reader@{every_etcd.endpoint}/services")
    (member,) = of_reader.members
    assert (of_reader.unknown, member.reason, member.leads) == (None, None, True)
    assert member.version is not None
    of_nobody = await told(f"etcd://{every_etcd.endpoint}/services")
    (member,) = of_nobody.members
    assert member.endpoints == (every_etcd.endpoint,)
    refused = member.version is None  # by etcd 3.6; the earlier versions of these tests ask for no user
    assert ("asks for a user and a password" in (member.reason or "")) == refused
    assert ("list of members is not known" in (of_nobody.unknown or "")) == refused
    of_wrong = await told(f"etcd://reader:wrong-one@{every_etcd.endpoint}/services")
    (member,) = of_wrong.members
    assert ("wrong user or password" in (member.reason or "")) == refused
    assert "wrong-one" not in repr(of_wrong)


async def test_a_cluster_of_which_nobody_answers_is_told(every_etcd: EmbeddedEtcd) -> None:
    every_etcd.send_signal(signal.SIGKILL)
    every_etcd.stop()
    (member,) = (await told(every_etcd.url)).members
    assert (member.endpoints, member.leads) == ((every_etcd.endpoint,), None)
    assert "connection refused" in (member.reason or "")
