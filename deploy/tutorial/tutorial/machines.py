"""The machines of the tutorial: A, B and a spare one, each with dockerd and a member of etcd."""

import json
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from docker_lab import Lan, Machine

from discovery.system.embedded import find_program
from tutorial.containers import BRIDGE

CLIENT_PORT, PEER_PORT = 4001, 7001
"""etcd's ports on CoreOS."""
_PRIVATE, _PUBLIC = "10.132.0", "203.0.113"
_HOSTS = {"a": 11, "b": 12, "spare": 13}
_ELECTION = ("--heartbeat-interval", "100", "--election-timeout", "1000")  # etcd's own defaults, in milliseconds


class Member(NamedTuple):
    """A member of etcd: the machine, the member's id, and the id of its leader, 0 if it knows of none."""

    machine: str
    id: int
    leader: int


class Machines:
    """The running machines, by name, on their network."""

    def __init__(self, lan: Lan) -> None:
        """Describe the machines; start nothing."""
        self.lan = lan
        self.by_name = {
            name: Machine(lan, name, f"{_PRIVATE}.{host}", f"{_PUBLIC}.{host}", options=("--bip", BRIDGE))
            for name, host in _HOSTS.items()
        }

    def __getitem__(self, name: str) -> Machine:
        """Return the machine of a name: a, b or spare."""
        return self.by_name[name]

    def start_etcd(self, name: str) -> None:
        """Start the etcd member of a machine, with the data of an earlier start if there are some."""
        machine = self[name]
        peer = f"http://{machine.address}:{PEER_PORT}"
        members = ",".join(f"{each}=http://{other.address}:{PEER_PORT}" for each, other in self.by_name.items())
        machine.spawn(
            # As a variable, because etcd 3.4 ends at a flag that it does not know.
            *("env", "ETCD_UNSAFE_NO_FSYNC=true", find_program("etcd"), "--name", name),
            *("--data-dir", machine.directory / "etcd", "--logger", "zap", "--pre-vote", *_ELECTION),
            *("--listen-client-urls", f"http://0.0.0.0:{CLIENT_PORT}"),
            *("--advertise-client-urls", f"http://{machine.address}:{CLIENT_PORT}"),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", members, "--initial-cluster-token", "tutorial"),
        )

    def members(self, *names: str) -> list[Member]:
        """Return the members of these machines that answer."""
        found = []
        for name in names:
            done = self._etcdctl(name, "--command-timeout=2s", "endpoint", "status", "--write-out=json")
            if done.returncode == 0:
                status = json.loads(done.stdout)[0]["Status"]
                found.append(Member(name, status["header"]["member_id"], status.get("leader", 0)))
        return found

    def move_leader(self, from_: str, to: Member) -> None:
        """Have the leader, which is on the machine `from_`, hand over to another member."""
        self._etcdctl(from_, "move-leader", f"{to.id:x}").check_returncode()

    def enter(self, *command: str) -> Sequence[str]:
        """Return a command that runs in the network of the machines."""
        return (*self.lan.enter, *command)

    def _etcdctl(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        endpoint = f"--endpoints=http://{self[name].address}:{CLIENT_PORT}"
        command = self.enter(str(find_program("etcdctl")), endpoint, *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, start_new_session=True)
