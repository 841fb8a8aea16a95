"""Types of options that the core and plugins share: durations, addresses to listen on, weights, and more.

Public API, for the fields of a `PluginConfig`:

    class Config(PluginConfig):
        listen: OneOrMany[Bind] = ("127.0.0.1:8080",)
        interval: Annotated[float, Duration(0.1, 3600)] = 5.0
        weight: Weight = 1

Every option of one type takes the same forms and refuses the others with the same message. The classes `Duration`,
`WholeNumber` and `BindAddress` hold the bounds of one option; their method `parse` validates a value without a model.
All objects are immutable and all functions are pure, so any thread may use both.

This package does not import pydantic: commands parse durations without a model, and pydantic takes longer to import
than most commands take to run.
"""

from discovery.fields.announcing import OwnAddress
from discovery.fields.listening import UNIX_PREFIX, Bind, BindAddress, bind_tables
from discovery.fields.names import ServiceName, is_service_name, service_name
from discovery.fields.networks import UNIX, Network, Networks, Senders, network
from discovery.fields.parsed import OneOrMany, format_value, one_or_many
from discovery.fields.proxies import (
    BalanceAlgorithm,
    HostHeader,
    HttpMethod,
    HttpStatuses,
    Matching,
    RequestTarget,
    check_kind,
)
from discovery.fields.quantities import (
    CHECK_TIME,
    LONGEST,
    TTL,
    WEIGHT,
    Duration,
    Fall,
    Port,
    Rise,
    Weight,
    WholeNumber,
    duration_text,
)
from discovery.fields.selection import Hosts, LabelName, Labels, LabelValues, Prefixes, has_labels

__all__ = [
    "CHECK_TIME",
    "LONGEST",
    "TTL",
    "UNIX",
    "UNIX_PREFIX",
    "WEIGHT",
    "BalanceAlgorithm",
    "Bind",
    "BindAddress",
    "Duration",
    "Fall",
    "HostHeader",
    "Hosts",
    "HttpMethod",
    "HttpStatuses",
    "LabelName",
    "LabelValues",
    "Labels",
    "Matching",
    "Network",
    "Networks",
    "OneOrMany",
    "OwnAddress",
    "Port",
    "Prefixes",
    "RequestTarget",
    "Rise",
    "Senders",
    "ServiceName",
    "Weight",
    "WholeNumber",
    "bind_tables",
    "check_kind",
    "duration_text",
    "format_value",
    "has_labels",
    "is_service_name",
    "network",
    "one_or_many",
    "service_name",
]
