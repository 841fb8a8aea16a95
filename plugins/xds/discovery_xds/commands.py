"""The command `xds` of `discovery`: bootstrap configurations for xDS clients."""

import socket
from pathlib import Path
from typing import Annotated, Literal

import typer

from discovery import ConfigError
from discovery.commands import result
from discovery.fields import BindAddress

_SERVER = BindAddress(sockets=False, names=True)
_DEFAULT_SERVER = "127.0.0.1:18000"
"""The default of the consumer's option `listen`, which is not imported: the options take pydantic."""


def xds(
    action: Annotated[Literal["bootstrap"], typer.Argument(help="bootstrap: print a bootstrap configuration.")],
    *,
    envoy: Annotated[bool, typer.Option("--envoy", help="Print the bootstrap of Envoy.")] = False,
    grpc: Annotated[bool, typer.Option("--grpc", help="Print the bootstrap of gRPC programs.")] = False,
    server: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="The xDS port of the consumer, its option `listen`.")
    ] = _DEFAULT_SERVER,
    node_id: Annotated[
        str | None,
        typer.Option(metavar="ID", help="The client's name in health, log and /api. Default: the host name."),
    ] = None,
    cluster: Annotated[
        str, typer.Option(metavar="NAME", help="The group of clients that the client belongs to.")
    ] = "discovery",
    region: Annotated[str, typer.Option(metavar="NAME", help="The region of the client.")] = "",
    zone: Annotated[str, typer.Option(metavar="NAME", help="The zone of the client.")] = "",
    admin: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Envoy's own admin port. Default: none.")
    ] = None,
    sotw: Annotated[
        bool, typer.Option("--sotw", help="Have Envoy use the state-of-the-world protocol instead of delta.")
    ] = False,
    ca: Annotated[
        Path | None, typer.Option(metavar="FILE", readable=False, help="CA of the server's certificate. Turns TLS on.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", readable=False, help="The client's certificate, for mTLS.")
    ] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", readable=False, help="The client's private key.")] = None,
    server_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The name in the server's certificate. Default: the host of --server."),
    ] = None,
) -> None:
    """Print a bootstrap for Envoy or gRPC programs.

    \b
    discovery xds bootstrap --envoy > envoy.yaml && envoy -c envoy.yaml
    discovery xds bootstrap --grpc > xds.json && GRPC_XDS_BOOTSTRAP=xds.json ./program    # opens xds:///web
    """
    from discovery_xds import bootstrap

    if envoy == grpc:
        raise ConfigError(f"xds {action}: give either --envoy or --grpc")
    for option, given in (("--admin", admin), ("--sotw", sotw), ("--server-name", server_name)):
        if grpc and given:
            raise ConfigError(f"{option} is for Envoy: remove it, or give --envoy")
    if ca is None and (certificate or key or server_name):
        raise ConfigError("--certificate, --key and --server-name are for TLS: give the CA of the server with --ca")
    if (certificate is None) != (key is None):
        raise ConfigError("--certificate and --key belong together: give both")
    tls = None
    if ca is not None:
        tls = bootstrap.ClientTls(
            ca.absolute(), certificate and certificate.absolute(), key and key.absolute(), server_name
        )
    node = bootstrap.Node(node_id or socket.gethostname(), cluster, region, zone)
    address = _address("--server", server)
    if grpc:
        result(bootstrap.grpc(address, node, tls=tls))
    else:
        own = _address("--admin", admin) if admin is not None else None
        result(bootstrap.envoy(address, node, tls=tls, admin=own, sotw=sotw))


def _address(option: str, value: str) -> str:
    try:
        return _SERVER.parse(value)
    except ValueError as error:
        raise ConfigError(f"{option} {error}") from None
