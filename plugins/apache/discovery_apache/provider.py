"""The provider: the inventory of the containers and the local servers with Apache httpd on this machine."""

from discovery_apache.config import ApacheConfig
from discovery_apache.httpd import local_candidates
from discovery_apache.rules import container_rules
from discovery_docker.api import ContainerProvider, Machine, RankedCandidate, Rules


class ApacheProvider(ContainerProvider[ApacheConfig]):
    """Finds Apache httpd in Docker and on this machine. A failure of Docker does not affect the local servers."""

    Config = ApacheConfig

    def rules(self) -> Rules | None:
        """Return the rules for containers with Apache httpd."""
        return container_rules(self.config)

    @property
    def finds_more(self) -> bool:
        """True if local servers are configured."""
        return bool(self.config.httpd)

    def find_more(self, machine: Machine) -> tuple[list[RankedCandidate], dict[str, str]]:
        """Return the candidates of the local servers."""
        return local_candidates(self.config, machine)
