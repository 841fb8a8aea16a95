"""The six containers, with the arguments that the tutorial of 2014 gives them."""

from typing import NamedTuple

SERVICE = "apache-A"
"""The service under which Apache is registered."""
RECORD = f"/services/{SERVICE}/apache.service"
ETCD = "172.17.42.1:4001"
"""Where containers reach the etcd member of their own machine: the address of docker0 on CoreOS."""
BRIDGE = "172.17.42.1/16"
"""The address of docker0, for dockerd."""

HAPROXY_CONFIG = """\
defaults
    mode http
    timeout connect 5s
    timeout client 50s
    timeout server 50s
    # Each request has a connection of its own to the ambassador: a machine that dies takes no later request with it.
    option http-server-close

frontend www-http
    bind :80
    default_backend www-backend

backend www-backend
    server apache "${PRIVATE_IPV4}:80" check
"""
"""The tutorial's haproxy.cfg. The tutorial's start script asks the metadata service for the private address."""


class Container(NamedTuple):
    """A container: its role in the story, and the arguments of `docker run`."""

    role: str
    arguments: tuple[str, ...]

    @property
    def name(self) -> str | None:
        """The container's name; None if Docker is to choose one."""
        if "--name" not in self.arguments:
            return None
        return self.arguments[self.arguments.index("--name") + 1]

    @property
    def command(self) -> str:
        """The command as a person would type it."""
        return " ".join(("docker run -d", *self.arguments))


def provider(private: str, socket: str) -> tuple[Container, ...]:
    """Return the containers of the machine that runs Apache: the machine's address, and the path of Docker's socket."""
    apache = ("--rm", "--name", "apache.service", "-p", f"{private}::80", "user_name/apache")
    ambassador = ("--rm", "--name", "etcd-amb-apache.service", "polvi/simple-amb", ETCD)
    register = (
        *("--link", "etcd-amb-apache.service:etcd", "-v", f"{socket}:/var/run/docker.sock", "--rm"),
        *("polvi/docker-register", "apache.service", "80", SERVICE),
    )
    return (
        Container("apache", apache),
        Container("etcd-amb", ambassador),
        Container("docker-register", register),
    )


def consumer(private: str, public: str) -> tuple[Container, ...]:
    """Return the containers of the machine that runs HAProxy, from the machine's two addresses."""
    ambassador = ("--rm", "--name", "etcd-amb-apache2.service", "polvi/simple-amb", ETCD)
    dynamic = (
        *("--link", "etcd-amb-apache2.service:etcd", "--rm", "--name", "apache-dyn-amb.service"),
        *("-p", f"{private}:80:80", "polvi/dynamic-etcd-amb", SERVICE, "80"),
    )
    haproxy = (
        *("--name", "haproxy.service", "-p", f"{public}:80:80", "-e", f"PRIVATE_IPV4={private}"),
        "user_name/haproxy",
    )
    return (
        Container("etcd-amb", ambassador),
        Container("backend-amb", dynamic),
        Container("haproxy", haproxy),
    )
