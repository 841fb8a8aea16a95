"""A CA with the files of certificates, for servers and clients."""

import ssl
from pathlib import Path
from typing import Any

import grpc
import trustme


class Authority:
    """A CA, with files of a server's and of a client's certificate."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self.ca = trustme.CA()
        self.ca_file = directory / "ca.pem"
        self.ca.cert_pem.write_to_path(str(self.ca_file))
        self.issue("server")
        self.issue("client")

    def issue(self, name: str) -> None:
        issued = self.ca.issue_cert("localhost", "127.0.0.1")
        self.file(name, "key").write_bytes(issued.private_key_pem.bytes())
        self.file(name, "crt").write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))

    def pem(self, name: str, *names: str) -> Path:
        """A new certificate with its key in one file, which is renamed into its place."""
        issued = self.ca.issue_cert(*names or ("localhost", "127.0.0.1"))
        new, path = self.file(name, "new"), self.file(name, "pem")
        new.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
        return new.replace(path)

    def server_context(self, name: str, *, mutual: bool = False) -> ssl.SSLContext:
        """The context of a server with the certificate of a file of `pem`."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.ca_file))
        context.load_cert_chain(self.file(name, "pem"))
        context.verify_mode = ssl.CERT_REQUIRED if mutual else ssl.CERT_NONE
        return context

    def client_context(self, name: str | None = None) -> ssl.SSLContext:
        """The context of a client, which has the certificate of a file of `pem` if `name` is given."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        if name is not None:
            context.load_cert_chain(self.file(name, "pem"))
        return context

    def file(self, name: str, suffix: str) -> Path:
        return self.directory / f"{name}.{suffix}"

    def options(self, *, mutual: bool) -> dict[str, Any]:
        own = {"certificate": str(self.file("server", "crt")), "key": str(self.file("server", "key"))}
        return {"tls": {**own, "client_ca": str(self.ca_file)} if mutual else own}

    def credentials(self, *, mutual: bool) -> grpc.ChannelCredentials:
        own = (self.file("client", "key").read_bytes(), self.file("client", "crt").read_bytes()) if mutual else ()
        return grpc.ssl_channel_credentials(self.ca_file.read_bytes(), *own)
