"""The rules by which containers with Apache httpd are found and registered."""

from discovery.probes import HttpProbe
from discovery_apache.config import APACHE_PORT, ApacheConfig
from discovery_apache.statuscheck import status_check
from discovery_docker.api import Kind, Rules

APACHE_IMAGES = ("httpd", "apache", "apache2", "httpd-2*", "php:*apache*")


def container_rules(config: ApacheConfig) -> Rules | None:
    """Return the rules of the configuration; None if Docker is off."""
    docker = config.docker
    if docker is None:
        return None
    load = config.weight == "load"
    status = docker.status
    kind = Kind(
        images=APACHE_IMAGES,
        port=APACHE_PORT,
        noun="an Apache image",
        table="docker.",
        checks=(status_check(HttpProbe(path=status.page), status, load=load),) if status is not None else (),
        replaces_check=status is not None and "check" not in config.model_fields_set,
    )
    return Rules(config, docker, 1 if config.weight == "load" else config.weight, kind)
