"""Registrator's conventions, also with hostile labels."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery import Backend
from discovery.registry import validate
from discovery_docker.conventions import CheckRequest, PortRequest, ServiceVariables


def read(labels: dict[str, str], env: dict[str, str], port: int) -> PortRequest:
    return ServiceVariables.read(labels, env).request(port)


def test_labels_override_the_environment_and_port_entries_override_both() -> None:
    env = {"SERVICE_NAME": "env", "SERVICE_ID": "one", "SERVICE_8080_ID": "two", "PATH": "/bin"}
    labels = {"SERVICE_NAME": "label", "SERVICE_443_NAME": "tls", "SERVICE_ID": "three"}
    assert read(labels, env, 80).service == "label"
    assert not read(labels, env, 80).named_for_port
    assert read(labels, env, 443).service == "tls"
    assert read(labels, env, 443).named_for_port
    assert read(labels, env, 8080).id == "two"
    assert read(labels, env, 80).id == "three"
    assert read({"SERVICE_NAME": ""}, env, 80).service is None
    assert read({}, {}, 80).service is None


def test_other_entries_become_labels_in_lower_case() -> None:
    labels = {"SERVICE_TAGS": "www,master", "SERVICE_REGION": "us2", "SERVICE_80_SNI": "on", "SERVICE_443_SNI": "off"}
    request = read(labels, {"SERVICE_REGION": "eu", "SERVICE_EMPTY": ""}, 80)
    assert dict(request.labels) == {"tags": "www,master", "region": "us2", "sni": "on"}
    assert request.problems == ()


def test_labels_of_this_product_are_passed_on_for_every_port_or_for_one() -> None:
    """Issue 12, C.3."""
    labels = {
        "discovery.host": "shop.example.com",
        "discovery.path": "/api",
        "discovery.443.host": "tls.example.com",
        "discovery.443.x": "",
        "SERVICE_DISCOVERY.PATH": "/other",
        "discovery.": "no name",
        "discovery": "no name",
        "other.host": "x",
    }
    request = read(labels, {"discovery.host": "env", "discovery.zone": "env"}, 80)
    assert dict(request.labels) == {"discovery.host": "shop.example.com", "discovery.path": "/api"}
    assert dict(read(labels, {}, 443).labels) == {"discovery.host": "tls.example.com", "discovery.path": "/api"}
    assert request.problems == ()
    bad = read({"discovery.host": "a\nb", "discovery.a b": "x", "discovery.path": "/"}, {}, 80)
    assert dict(bad.labels) == {"discovery.path": "/"}
    assert len(bad.problems) == 2


@pytest.mark.parametrize(
    "key",
    ["SERVICE_PASSWORD", "SERVICE_DB_PASSWORDS", "SERVICE_80_API_KEY", "SERVICE_token", "SERVICE_CLIENT_SECRET_2"],
)
def test_a_variable_that_is_named_as_a_secret_is_not_published(key: str) -> None:
    """Every container is registered by default, also one whose own settings happen to begin with SERVICE_."""
    request = read({}, {key: "hunter2", "SERVICE_KEYBOARD": "de"}, 80)
    assert dict(request.labels) == {"keyboard": "de"}
    assert "hunter2" not in repr(request)
    assert request.problems == (
        f"{key!r} has the name of a secret, and is not published: if it is no secret, make it a label of the container",
    )
    assert len(read({key: "no secret"}, {}, 80).labels) == 1


@pytest.mark.parametrize("value", ["1", "true", "no"])
def test_any_value_ignores(value: str) -> None:
    assert read({"SERVICE_IGNORE": value}, {}, 80).ignore
    assert read({"SERVICE_443_IGNORE": value}, {}, 443).ignore
    assert not read({"SERVICE_443_IGNORE": value}, {}, 80).ignore
    assert not read({"SERVICE_IGNORE": ""}, {}, 80).ignore


def test_a_check_has_a_path_and_times() -> None:
    labels = {"SERVICE_CHECK_HTTP": "/health?full=1", "SERVICE_80_CHECK_INTERVAL": "15s", "SERVICE_CHECK_TIMEOUT": "1"}
    assert read(labels, {}, 80).check == CheckRequest("/health?full=1", interval=15.0, timeout=1.0)
    assert read(labels, {}, 81).check == CheckRequest("/health?full=1", timeout=1.0)
    assert read({"SERVICE_443_CHECK_TCP": "true"}, {}, 443).check == CheckRequest(tcp=True)
    assert read({"SERVICE_CHECK_TCP": "false"}, {}, 443).check == CheckRequest()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SERVICE_CHECK_SCRIPT", "curl -sf example.com"),
        ("SERVICE_80_CHECK_CMD", "rm -rf /"),
        ("service_check_docker".upper(), "x"),
        ("SERVICE_IP", "10.0.0.1"),
        ("SERVICE_host", "10.0.0.1"),
        ("SERVICE_CHECK_TTL", "30s"),
        ("SERVICE_CHECK_HTTP", "http://169.254.169.254/latest"),
        ("SERVICE_CHECK_HTTP", "//evil.example/"),
        ("SERVICE_CHECK_HTTP", "/a b"),
        ("SERVICE_CHECK_HTTP", "/\r\nHost: evil"),
        ("SERVICE_CHECK_TCP", "10.0.0.1:22"),
        ("SERVICE_CHECK_INTERVAL", "soon"),
        ("SERVICE_CHECK_INTERVAL", "1ms"),
        ("SERVICE_CHECK_INTERVAL", "1000h"),
        ("SERVICE_CHECK_TIMEOUT", "-1s"),
        ("SERVICE_ID", "a/b"),
        ("SERVICE_NETWORK", "a b"),
        ("SERVICE_A\nB", "x"),
        ("SERVICE_REGION", "x" * 2000),
        ("SERVICE_REGION", "\x1b[31m"),
    ],
)
def test_a_refused_value_is_one_line_and_has_no_effect(key: str, value: str) -> None:
    request = read({key: value, "SERVICE_NAME": "web"}, {}, 80)
    (problem,) = request.problems
    assert problem.isprintable()
    assert len(problem) < 300
    assert "SERVICE_" in problem
    assert (request.service, request.id, request.network, request.check) == ("web", None, None, CheckRequest())
    assert dict(request.labels) == {}


@pytest.mark.parametrize("name", ["no spaces", "a/b", "-x", "x" * 129, "..\n", "\u202e"])
def test_a_port_with_an_invalid_name_is_refused(name: str) -> None:
    request = read({"SERVICE_NAME": name}, {}, 80)
    assert request.service is None
    assert request.refusal is not None
    assert request.refusal.isprintable()


def test_ports_and_containers_that_request_a_name() -> None:
    labels = {"SERVICE_80_NAME": "web", "SERVICE_443_TAGS": "x", "SERVICE_99999_NAME": "x", "SERVICE_81_NAME": ""}
    assert ServiceVariables.read(labels, {"SERVICE_8080_NAME": "y"}).named_ports == {80, 8080}
    assert ServiceVariables.read(labels, {}).requests_name
    assert ServiceVariables.read({}, {"SERVICE_NAME": "x"}).requests_name
    assert not ServiceVariables.read({"SERVICE_TAGS": "x", "SERVICE_NAME": ""}, {"NAME": "y"}).requests_name


keys = st.one_of(
    st.text(max_size=40),
    st.builds(
        lambda port, name: f"SERVICE_{port}{name}",
        st.sampled_from(["", "80_", "443_", "080_"]),
        st.one_of(
            st.text(max_size=20),
            st.sampled_from(["NAME", "ID", "IGNORE", "TAGS", "NETWORK", "IP", "HOST", "PORT"]),
            st.sampled_from(
                ["CHECK_HTTP", "CHECK_TCP", "CHECK_CMD", "CHECK_SCRIPT", "CHECK_INTERVAL", "CHECK_TIMEOUT"]
            ),
        ),
    ),
)
values = st.one_of(
    st.text(max_size=60), st.sampled_from(["/health", "http://x/", "//x", "5s", "x" * 5000, "\x00", "web"])
)
labels = st.dictionaries(keys, values, max_size=12)


@given(labels, labels, st.sampled_from([80, 443, 0]))
def test_requests_are_valid_whatever_labels_say(labels: dict[str, str], env: dict[str, str], port: int) -> None:
    request = read(labels, env, port)
    validate(Backend(request.service or "s", request.id or "i", "h", 1, labels=request.labels))
    for problem in (*request.problems, *filter(None, [request.refusal])):
        assert problem.isprintable()
        assert len(problem) < 1000
    check = request.check
    assert check.path is None or (check.path.startswith("/") and not check.path.startswith("//"))
    assert check.path is None or (check.path.isascii() and check.path.isprintable() and " " not in check.path)
    assert check.interval is None or 0.5 <= check.interval <= 3600
    assert check.timeout is None or 0.1 <= check.timeout <= 60
