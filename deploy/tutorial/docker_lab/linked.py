"""Engines for fault tests that this machine reaches by a link, with images of this machine's programs."""

import io
import random
import subprocess
from contextlib import suppress
from ipaddress import IPv4Network
from typing import Any

import docker
from docker.models.containers import Container

from docker_lab.engine import Engine, run
from docker_lab.images import apache_image, busybox_image

_ATTEMPTS = 50
_SPACE = list(IPv4Network("198.18.0.0/15").subnets(new_prefix=24))  # kept for labs by RFC 2544


class LinkedEngine(Engine):
    """One engine, reached from this machine at `address` (and `address6`) and through its socket.

    Its containers reach this machine at `gateway`. Several such engines run side by side.
    """

    def run(self, name: str, image: str = "apache", *, publish: str | None = "", **options: Any) -> Container:
        """`docker run -d -p ADDRESS::80`: `publish` is the address, "" the engine's own, None for no port at all."""
        if publish is not None:
            options.setdefault("ports", {"80/tcp": (publish or self.address, None)})
        return self.client.containers.run(image, name=name, detach=True, **options)

    def network(self, name: str) -> None:
        """`docker network create`; this machine reaches its containers by their own addresses. One at a time."""
        pool = docker.types.IPAMPool(subnet=str(self.own_subnet))
        self.client.networks.create(name, ipam=docker.types.IPAMConfig(pool_configs=[pool]))

    def port(self, name: str, port: int = 80) -> int:
        """Return the current host port of a container's port. Raises LookupError if the port is not published."""
        bindings = self.client.api.inspect_container(name)["NetworkSettings"]["Ports"].get(f"{port}/tcp")
        if not bindings:
            raise LookupError(f"container {name} publishes no port {port}")
        return int(bindings[0]["HostPort"])

    def restart(self, name: str) -> None:
        """`docker restart -t 1`. Podman answers an error for one that ends right before its SIGKILL."""
        try:
            self.client.api.restart(name, timeout=1)
        except docker.errors.APIError as error:
            if "container state improper" not in str(error):
                raise
            self.client.api.start(name)

    def pid(self, name: str) -> int:
        """Return the process id of a container. Raises LookupError if the container does not run."""
        pid = int(self.client.api.inspect_container(name)["State"]["Pid"])
        if not pid:  # which to kill() would be our own process group
            raise LookupError(f"container {name} does not run")
        return pid

    def restore(self) -> None:
        """Start or resume the engine as needed, and remove all containers and named networks."""
        self.resume()
        if not self.running:
            self.start()
        client = self.client
        for found in client.api.containers(all=True):
            with suppress(docker.errors.NotFound):
                client.api.remove_container(found["Id"], force=True, v=True)
        client.networks.prune()

    def _make_network(self) -> None:
        for at in random.SystemRandom().sample(range(len(_SPACE)), _ATTEMPTS):
            name = f"dlab{at}"
            # Whoever can make this link has the number.
            if subprocess.run(
                ["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}n"],
                stderr=subprocess.DEVNULL,
                check=False,
            ).returncode:
                continue
            break
        else:
            raise RuntimeError(
                f"no free number for a lab in {_ATTEMPTS} attempts: `ip link` lists the links dlab* of other labs"
            )
        self._place.name = name
        subnet = _SPACE[at]
        here = self.gateway = str(subnet[1])
        self.address = str(subnet[2])
        self.own_subnet = next(net for net in subnet.subnets(new_prefix=25) if subnet[1] not in net)
        self.address6 = f"fd5c:1818:0:{at:x}::2"
        run("ip", "netns", "add", name)
        run("ip", "link", "set", f"{name}n", "netns", name, "name", "eth0")
        run("ip", "address", "add", f"{here}/25", "dev", name)
        run("ip", "link", "set", name, "up")
        inside = ("ip", "-n", name)
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "address", "add", f"{self.address}/25", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "route", "add", "default", "via", here)
        run("ip", "route", "add", str(self.own_subnet), "via", self.address)
        with suppress(subprocess.CalledProcessError):  # where the kernel has no IPv6, the tests of it say so
            run("ip", "address", "add", f"fd5c:1818:0:{at:x}::1/64", "dev", name, "nodad")
            run(*inside, "address", "add", f"{self.address6}/64", "dev", "eth0", "nodad")

    def _prepare(self) -> None:
        for tag, context in (("apache", apache_image()), ("busybox", busybox_image())):
            self.client.images.build(fileobj=io.BytesIO(context), custom_context=True, tag=tag, rm=True)


class DockerEngine(LinkedEngine):
    """One dockerd."""

    def _prepare(self) -> None:
        super()._prepare()
        # For `network`: what reaches a container past its published ports is otherwise dropped.
        self.in_namespace("iptables", "-I", "DOCKER-USER", "-d", str(self.own_subnet), "-j", "ACCEPT")
