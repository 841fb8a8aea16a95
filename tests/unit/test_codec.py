"""Records of every dialect are decoded; an invalid record is rejected alone and with a reason."""

import pytest
from records import as_bytes, read, record, refusal

from discovery.codec import MAX_VALUE, Record, decode, encode
from discovery.errors import RecordError
from discovery.model import Backend, Rejected, State
from discovery.testing import backend
from discovery.validity import MAX_LABEL_VALUE, MAX_LABELS


class TestDialects:
    def test_docker_register(self) -> None:
        got = read('{"port": 49153, "host": "10.132.233.107", "container": "f00", "cpu": 2, "up": true, "none": null}')
        assert got.backend == Backend(
            "web", "b1", "10.132.233.107", 49153, labels={"container": "f00", "cpu": "2", "up": "true"}
        )
        assert (got.owner, got.ttl, got.ignored) == (None, None, ())

    @pytest.mark.parametrize(
        ("text", "host", "port"),
        [
            ("10.0.0.1:80", "10.0.0.1", 80),
            ("  10.0.0.1:80\n", "10.0.0.1", 80),
            ("[2001:DB8::1]:80", "2001:db8::1", 80),
            ("App-1.Example:65535", "app-1.example", 65535),
        ],
    )
    def test_plain_address(self, text: str, host: str, port: int) -> None:
        assert read(text).backend == Backend("web", "b1", host, port)

    def test_nerve_without_its_haproxy_syntax(self) -> None:
        got = read(
            record(name="i-1", weight=10, labels={"az": "a"}, haproxy_server_options="check backup\nbind :80"),
            "web/i-1",
        )
        assert got.backend == Backend("web", "i-1", "10.0.0.1", 80, 10, labels={"az": "a", "name": "i-1"})
        [ignored] = got.ignored
        assert (ignored.key, ignored.field) == ("web/i-1", "haproxy_server_options")
        assert "HAProxy syntax" in ignored.reason

    def test_our_own(self) -> None:
        got = read(record(weight=0, state="draining", labels={"a": "b"}, owner="host-1", ttl=10))
        assert got == Record(Backend("web", "b1", "10.0.0.1", 80, 0, State.DRAINING, {"a": "b"}), "host-1", 10.0)

    def test_a_label_that_is_no_text_is_ignored_alone(self) -> None:
        got = read(record(tags=["a"], **{"odd\n\x1b[31m": {}}))
        assert [ignored.field for ignored in got.ignored] == ["tags", "odd\\n\\x1b[31m"]
        assert not got.backend.labels

    @pytest.mark.parametrize(
        ("label", "value", "reason"),
        [
            ("a b", "c", "the label name 'a b'"),
            ("a/b", "c", "the label name 'a/b'"),
            ("n" * 64, "c", "is not 1-63 letters"),
            ("a", "b\nc", "control or unprintable"),
            ("a", "\x00", "control or unprintable"),
            ("a", "\x7f", "control or unprintable"),
            ("a", "\ud800", "control or unprintable"),
            ("a", "é" * MAX_LABEL_VALUE, "longer than 1024 bytes"),
            ("a", None, "the label 'a' is null"),
            ("a", ["b"], "is not text"),
        ],
    )
    def test_an_invalid_label_costs_that_label_alone(self, label: str, value: object, reason: str) -> None:
        """Point 7."""
        forms = [record(labels={label: value, "zone": "a"})]
        if isinstance(value, str):
            forms.append(record(zone="a", **{label: value}))
        for form in forms:
            got = read(form)
            assert (got.backend.address, got.backend.labels) == ("10.0.0.1:80", {"zone": "a"})
            [ignored] = got.ignored
            assert (ignored.key, ignored.field) == ("web/b1", label)
            assert reason in ignored.reason

    @pytest.mark.parametrize("character", ["\n", "\t", "\r", "\0", "\x1b"])
    def test_a_control_character_that_is_not_escaped_costs_its_label_alone(self, character: str) -> None:
        """Point 7. JSON has such characters escaped; scripts that put JSON together from texts do not."""
        got = read(f'{{"host": "10.0.0.1", "port": 80, "zone": "a", "note": "b{character}c"}}')
        assert got.backend.labels == {"zone": "a"}
        assert [(each.field, "control" in each.reason) for each in got.ignored] == [("note", True)]
        assert "host" in refusal(f'{{"host": "10.0.0.1{character}", "port": 80}}')

    @pytest.mark.parametrize("labels", ["a=b", ["a"], 7, True])
    def test_labels_that_are_no_object_cost_the_labels_alone(self, labels: object) -> None:
        """Point 7."""
        got = read(record(labels=labels, zone="a"))
        assert got.backend.labels == {"zone": "a"}
        [ignored] = got.ignored
        assert (ignored.field, ignored.reason) == ("labels", "the field 'labels' is not an object of texts")

    @pytest.mark.parametrize("form", ['"note": "a", "note": "b"', '"labels": {"note": "a", "note": "b"}'])
    def test_a_label_that_is_given_twice_costs_that_label_alone(self, form: str) -> None:
        """Point 7. Which of the two is meant nobody knows."""
        got = read(f'{{"host": "10.0.0.1", "port": 80, "zone": "a", {form}}}')
        assert got.backend.labels == {"zone": "a"}
        assert [(each.field, each.reason) for each in got.ignored] == [("note", "the label 'note' is given twice")]
        assert "given twice" in refusal('{"host": "10.0.0.1", "port": 80, "labels": {}, "labels": {}}')

    def test_too_many_labels_cost_the_last_of_them(self) -> None:
        """Point 7. Extra fields come first, as docker-register writes many of them."""
        got = read(record(zone="a", labels={f"l{n}": "" for n in range(MAX_LABELS + 1)}))
        assert list(got.backend.labels) == ["zone", *(f"l{n}" for n in range(MAX_LABELS - 1))]
        [ignored] = got.ignored
        assert ignored.reason == "there are 66 valid labels; only the first 64 are used"

    @pytest.mark.parametrize(
        "labels",
        [
            {f"l{n}": "" for n in range(MAX_LABELS + 1)},
            {"a b": "c"},
            {"a": "b\nc"},
            {"a": "x" * (MAX_LABEL_VALUE + 1)},
        ],
    )
    def test_an_invalid_label_is_not_written(self, labels: dict[str, str]) -> None:
        with pytest.raises(RecordError, match="label"):
            encode(backend(labels=labels))

    def test_a_udp_port_of_registrator_is_refused(self) -> None:
        """Point 7."""
        assert "UDP" in refusal("10.0.0.1:53", "dns/host:name:53:udp")
        assert read("10.0.0.1:53", "dns/host:name:53").backend.port == 53
        assert read(record(), "dns/host:name:53:udp").backend.port == 80

    def test_an_explicit_label_wins_over_an_extra_field(self) -> None:
        assert read(record(zone="a", labels={"zone": "b"})).backend.labels == {"zone": "b"}


class TestRefusals:
    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            ("", "is not HOST:PORT"),
            (b"\xff\xfe", "not UTF-8"),
            ("{", "not valid JSON"),
            ('{"host": "a", "host": "b", "port": 1}', "given twice"),
            ("[" * 100_000, "limit is 65536"),
            ('{"a":' * 12_000, "not valid JSON"),
            ('{"host": "a", "port": ' + "9" * 5_000 + "}", "a number has too many digits"),
            ('{"host": "10.0.0.1"}', "'port' is missing"),
            ('{"port": 80}', "'host' is missing"),
            ("10.0.0.1", "is not HOST:PORT"),
            ("10.0.0.1:80:80", "is not HOST:PORT"),
            ("2001:db8::1:80", "is not HOST:PORT"),
            ("[10.0.0.1]:80", "not an IPv6 address"),
            ("10.0.0.1:0", "the port 0"),
            ("10.0.0.1:65536", "the port 65536"),
            (record(port=True), "the port True"),
            (record(port=80.0), "the port 80.0"),
            (record(port="80 "), "the port '80 '"),
            (record(port="８０"), "the port"),  # noqa: RUF001 - digits, but not ASCII
            (record(weight=-1), "the weight -1"),
            (record(weight=257), "the weight 257"),
            (record(weight="50%"), "the weight '50%'"),
            (record(state="up"), "the state 'up'"),
            (record(state=["active"]), "the state ['active']"),
            (record(owner=7), "the owner is not text"),
            (record(ttl=0), "the ttl 0"),
            (record(ttl="10"), "the ttl '10'"),
            (record(ttl=float("nan")), "the ttl nan"),
            (record(ttl=float("inf")), "the ttl inf"),
            (record(ttl=10**400), "the ttl 1000"),
            (record(ttl=True), "the ttl True"),
        ],
    )
    def test_each_with_its_reason(self, value: bytes | str | dict[str, object], reason: str) -> None:
        assert reason in refusal(value)

    @pytest.mark.parametrize(
        "host",
        [
            "",
            " ",
            7,
            None,
            "a b",
            "a\nb",
            "a\n",
            "a#b",
            "a'b",
            "${HOME}",
            "a..b",
            "-a",
            "a-",
            "a" * 64,
            ".".join(["a" * 63] * 4),
            "127.1",
            "2130706433",
            "0x7f000001",
            "0177.0.0.01",
            "10.0.0.256",
            "0.0.0.0",
            "255.255.255.255",
            "::",
            "::ffff:0.0.0.0",
            "::ffff:224.0.0.1",
            "[::ffff:255.255.255.255]",
            "224.0.0.1",
            "ff02::1",
            "fe80::1%eth0",
            "fe80::1%;",
            "[::1",
            "unix@/run/x",
            "/run/x",
            "приклад.укр",
        ],
    )
    def test_hosts_that_cannot_be_connected_to(self, host: object) -> None:
        assert "host" in refusal(record(host=host))

    @pytest.mark.parametrize(
        "key",
        [
            "",
            "web",
            "web/",
            "/b1",
            "web/a/b",
            "web//b",
            "/web/b1",
            "we b/b1",
            ".web/b1",
            "web/.b1",
            "web/b\n1",
            "web/-b",
            "w" * 129 + "/b",
            "web/" + "b" * 256,
            "web/é",
            "web/b1\x00",
            "web/b1 ",
        ],
    )
    def test_keys(self, key: str) -> None:
        assert refusal("10.0.0.1:80", key)

    def test_a_value_may_be_as_large_as_the_limit(self) -> None:
        value = as_bytes(record())
        assert read(value + b" " * (MAX_VALUE - len(value)))
        assert "65537 bytes" in refusal(value + b" " * (MAX_VALUE + 1 - len(value)))

    def test_nothing_unprintable_is_shown(self) -> None:
        rejected = decode("web/\x1b[31m\n\ud800", b"{\x1b")
        assert isinstance(rejected, Rejected)
        assert rejected.key == "web/\\x1b[31m\\n\\ud800"
        assert rejected.reason.isprintable()
