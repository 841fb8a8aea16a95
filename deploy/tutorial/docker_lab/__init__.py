"""Engines of containers in network namespaces of their own, for the tutorial and for tests.

Nothing is pulled, the host's own engines are not touched, and several labs run side by side. Needs root.
"""

from docker_lab.lan import Lan, Machine
from docker_lab.linked import DockerEngine, LinkedEngine

__all__ = ["DockerEngine", "Lan", "LinkedEngine", "Machine"]
