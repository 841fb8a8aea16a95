"""Which backends the workers' reports have as down."""

import pytest

from discovery_tcpproxy.config import TcpProxyConfig
from discovery_tcpproxy.status import ProxyStatus, down
from discovery_tcpproxy.targets import Target


@pytest.mark.parametrize(
    ("state", "weight", "is_down"),
    [
        ("usable", 1, False),
        ("set aside", 1, True),
        ("due", 1, True),
        ("probed", 1, True),
        ("draining", 1, False),
        ("set aside", 0, False),
    ],
)
def test_a_backend_that_gets_connections_and_takes_none_is_down(state: str, weight: int, is_down: bool) -> None:
    config = TcpProxyConfig.model_validate({"listen": {"db": {"bind": "127.0.0.1:5432"}}})
    targets = {"db": (Target("a", "10.0.0.1", 80, weight, draining=state == "draining"),)}
    figures = {"listeners": {"db": {"backends": {"a": {"state": state}, "gone": {"state": "set aside"}}}}}
    status = ProxyStatus(config, frozenset(), {}, targets, (), figures, (), 0)
    assert [*down(status)] == (["db/a"] if is_down else [])


def test_the_reason_is_that_of_the_last_attempt() -> None:
    config = TcpProxyConfig.model_validate({"listen": {"db": {"bind": "127.0.0.1:5432"}}})
    targets = {"db": (Target("a", "10.0.0.1", 80, 1, draining=False),)}
    figures = {"listeners": {"db": {"backends": {"a": {"state": "set aside", "reason": "Connection refused"}}}}}
    status = ProxyStatus(config, frozenset(), {}, targets, (), figures, (), 0)
    assert down(status) == {"db/a": "listener db: the last connection to it failed: Connection refused"}
