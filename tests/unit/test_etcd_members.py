"""The members of a cluster, joined from what each tells and from their list. Pure."""

from discovery.registry import Member
from discovery.registry.etcd.members import Answer, joined
from discovery.registry.etcd.messages import MEMBER_LIST, STATUS, Message

ONE, TWO, THREE = "10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379"
IDS = {ONE: 1, TWO: 2, THREE: 3}


def status(endpoint: str, leader: int = 1) -> Message:
    answer = STATUS.response(version="3.5.21", dbSize=1000 * IDS[endpoint], leader=leader)
    answer.header.member_id = IDS[endpoint]
    return answer


def listed(*members: tuple[int, str, str], learner: int = 0) -> Message:
    answer = MEMBER_LIST.response()
    for number, name, url in members:
        answer.members.add(ID=number, name=name, clientURLs=[url], isLearner=number == learner)
    return answer


def all_of(learner: int = 0) -> Message:
    return listed(*((number, f"n{number}", f"http://{at}") for at, number in IDS.items()), learner=learner)


def test_members_have_the_names_of_the_list_and_what_each_tells() -> None:
    told = joined([Answer(at, status(at), all_of(learner=3)) for at in (THREE, TWO, ONE)], {})
    assert told.unknown is None
    assert told.members == (
        Member("n1", (ONE,), True, True, "3.5.21", 1000),
        Member("n2", (TWO,), False, True, "3.5.21", 2000),
        Member("n3", (THREE,), False, False, "3.5.21", 3000),
    )


def test_the_list_of_the_leader_counts() -> None:
    old = listed((1, "n1", f"http://{ONE}"), (9, "removed", "http://10.0.0.9:2379"))
    told = joined([Answer(TWO, status(TWO), old), Answer(ONE, status(ONE), all_of())], {})
    assert [each.name for each in told.members] == ["n1", "n2", "n3"]


def test_a_member_of_another_address_is_recognised_by_its_last_answer() -> None:
    behind = "proxy.test:2379"
    answers = [Answer(ONE, status(ONE), all_of()), Answer(behind, failure="no answer")]
    unknown = joined(answers, {})
    assert [(each.name, each.endpoints) for each in unknown.members] == [
        ("", (behind,)),
        ("n1", (ONE,)),
        ("n2", (TWO,)),
        ("n3", (THREE,)),
    ]
    known = joined(answers, {behind: 2})
    assert known.members[1] == Member("n2", (behind,), False, reason="no answer")
    assert [each.asked for each in known.members] == [True, True, False]


def test_a_list_that_the_user_may_not_read_is_told_beside_what_is_known() -> None:
    told = joined([Answer(ONE, status(ONE), refused="permission denied"), Answer(TWO, failure="no answer")], {})
    assert told.unknown == "the cluster's list of members is not known: permission denied"
    assert told.members == (
        Member("", (ONE,), True, True, "3.5.21", 1000),
        Member("", (TWO,), reason="no answer"),
    )


def test_two_endpoints_of_one_member_are_one_member() -> None:
    told = joined([Answer(ONE, failure="no answer"), Answer("n1.test:2379", status(ONE), all_of())], {})
    assert told.members[0] == Member("n1", ("n1.test:2379",), True, True, "3.5.21", 1000)
    assert len(told.members) == 3


def test_without_a_leader_nobody_is_said_to_lead() -> None:
    told = joined([Answer(ONE, status(ONE, leader=0), all_of())], {})
    assert {each.leads for each in told.members} == {None}
