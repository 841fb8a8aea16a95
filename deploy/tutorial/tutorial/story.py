"""The steps of the tutorial, each of which is told as it happens."""

import signal
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TextIO

from docker_lab import Lan, Machine

from discovery.demo.processes import Stage, StepFailedError
from tutorial import images, leaders, traffic
from tutorial.containers import RECORD, SERVICE, Container, consumer, provider
from tutorial.machines import CLIENT_PORT, Machines, Member
from tutorial.outcomes import (
    Cut,
    History,
    Leader,
    Request,
    Summary,
    elected,
    judge,
    read_changes,
    read_requests,
    summarize,
)
from tutorial.watching import Watch

TTL = 10.0
"""Seconds for which the record of a machine that died stands: the default of docker-register."""
UNACKNOWLEDGED = 15.0
"""Seconds after which the ambassador ends a connection to a machine that died, once bytes were sent there."""
_BRIDGE_ADDRESSES = ("10.132.0.1/24", "203.0.113.1/24")
_STEADY = 3.0
"""Seconds of requests before, between and after the events."""
_HUNG = 0.2
"""Seconds for which Apache answers nothing before its machine loses power: ten requests are in flight then."""
_START_SECONDS = 120.0
"""Seconds within which a step has to show its effect, on a busy machine."""
_SURVIVORS = ("b", "spare")
"""The machines that keep their power."""
_REFUSED = "belongs to"
"""What docker-register says of a key that another owner holds."""


class Options(NamedTuple):
    """What the command line asks for. `rate` is in requests per second; `images` an archive to use, or to make."""

    leader: bool
    rate: float
    images: Path | None


class Event(NamedTuple):
    """Something that happened at a time of CLOCK_MONOTONIC."""

    at: float
    text: str


class Result(NamedTuple):
    """What the run has shown. `limit` is the longest hold that the bar allows, in seconds.

    `election` is how long etcd had no leader that answers, in seconds; 0 if its leader lost no power. `resumed` is how
    long after the loss of power the first request was answered that had waited, in seconds; None if none was.
    """

    leader: bool
    requests: tuple[Request, ...]
    events: tuple[Event, ...]
    cut: Cut
    summary: Summary
    history: History
    election: float
    limit: float
    resumed: float | None = None

    @property
    def within_limit(self) -> bool:
        """True if the bar is met: no request was held for longer than the limit."""
        return self.summary.longest_hold <= self.limit

    @property
    def passed(self) -> bool:
        """True if no request failed that was not in flight, and the record neither flapped nor was there twice."""
        return not self.summary.failed and not self.history.flaps and not self.history.duplicates


class Story:
    """One run. Each step changes the machines, and waits until the change shows."""

    def __init__(self, stage: Stage, options: Options, output: TextIO) -> None:
        """Prepare; nothing is started. `output` is where the steps are told."""
        self._stage, self._options, self._output = stage, options, output
        self._began = time.monotonic()
        self._events = list[Event]()
        self._hosts = dict[str, str]()

    def run(self) -> Result:
        """Run every step. Raises what `Stage.wait` raises, DiscoveryError and subprocess.CalledProcessError."""
        self._start_machines()
        self._start_etcd()
        self._start_containers()
        self._begin_requests()
        before = self._follow_leaders() if self._options.leader else 0
        cut = self._cut_power()
        election = self._elect(cut, before) if self._options.leader else 0.0
        self._move()
        self._return()
        requests = self._end_requests()
        summary = summarize(requests, cut)
        limit = TTL + 2 + election if self._options.leader else TTL + 1
        history = judge(read_changes(self._watch.lines, SERVICE), cut)
        waited = [each.ended - cut.begun for each in requests if each.begun > cut.ended and not each.failure]
        return Result(
            self._options.leader,
            tuple(requests),
            tuple(self._events),
            cut,
            summary,
            history,
            election,
            limit,
            min(waited, default=None),
        )

    def _start_machines(self) -> None:
        self._step("Start three machines on one network, each with its own dockerd")
        lan = self._stage.enter(Lan(*_BRIDGE_ADDRESSES))
        self._machines = Machines(lan)
        for name, machine in self._machines.by_name.items():
            self._stage.enter(machine)
            self._tell(f"{name}: {', '.join(map(str, machine.addresses))}")
            self._stage.check()
        archive = self._options.images or self._stage.directory / "images.tar"
        built = archive.exists()
        if not built:
            self._tell("building the images from this checkout, on b (a minute or two)")
            images.build(self._machines["b"], archive, self._stage)
        self.load(archive, [machine for name, machine in self._machines.by_name.items() if built or name != "b"])
        self._tell("the images are on each machine; nothing was pulled")

    def load(self, archive: Path, machines: Iterable[Machine]) -> None:
        """Load the images of an archive on each machine. An interruption waits for none: it ends the engines."""
        pool = ThreadPoolExecutor()
        try:
            loads = [pool.submit(images.load, machine, archive) for machine in machines]
            self._stage.wait(lambda: all(load.done() for load in loads), "the images are loaded", None)
        finally:
            pool.shutdown(wait=False)
        for load in loads:
            load.result()

    def _start_etcd(self) -> None:
        self._step("Start a member of etcd on each machine")
        names = list(self._machines.by_name)
        for name in names:
            self._machines.start_etcd(name)
        members = self._until(lambda: self._led(names, len(names)), "etcd to have a leader")
        leader = next(each for each in members if each.id == each.leader)
        wanted = next(each for each in members if (each.machine == "a") == self._options.leader)
        if (leader.machine == "a") != self._options.leader:
            self._machines.move_leader(leader.machine, wanted)
            self._until(
                lambda: [each for each in self._led(names, len(names)) if each.leader == wanted.id],
                "the leader of etcd to move",
            )
            leader = wanted
        self._tell(f"the leader is on {leader.machine}")

    def _start_containers(self) -> None:
        a, b = self._machines["a"], self._machines["b"]
        self._step("Start the tutorial's six containers, with the tutorial's arguments")
        self._start("a", provider(a.address, str(a.socket)))
        self._start("b", consumer(b.address, str(b.addresses[1])))
        self._watch = Watch(
            self._stage.start_python(
                "watch",
                *("-m", "discovery", "watch", "--json", "--registry", f"etcd://{b.address}:{CLIENT_PORT}"),
                under=self._machines.lan.enter,
            )
        )
        self._stage.enter(self._watch)
        self._stage.wait(
            lambda: any(each.backends for each in read_changes(self._watch.lines, SERVICE)),
            f"{RECORD} is registered",
            _START_SECONDS,
        )
        (record,) = read_changes(self._watch.lines, SERVICE)[-1].backends
        self._tell(f"{RECORD} is {record.address}")

    def _begin_requests(self) -> None:
        public = str(self._machines["b"].addresses[1])
        self._step(f"Send {self._options.rate:g} requests a second to http://{public}/, HAProxy on b, until the end")
        self._traffic_file = self._stage.directory / "traffic.jsonl"
        self._traffic_file.touch()
        self._probe(public)
        self._traffic = self._stage.start_python(
            "requests",
            *(traffic.__file__, public, "80", str(self._options.rate), str(self._traffic_file)),
            under=self._machines.lan.enter,
        )
        self._more("a")
        self._tell(f"{len(self._requests())} requests were answered by Apache on a")

    def leader_by(self, name: str) -> int:
        """Return the leader's id by the member of a machine, which is asked until it answers and knows a leader."""
        answers = self._until(
            lambda: [each for each in self._machines.members(name) if each.leader], f"etcd on {name} names its leader"
        )
        return answers[0].leader

    def _cut_power(self) -> Cut:
        self._step("Machine a loses power")
        self._machines["a"].suspend_container("apache.service")
        hung = time.monotonic()
        self._stage.wait(lambda: time.monotonic() - hung >= _HUNG, "requests are in flight")
        self._tell("a moment before, Apache on a takes requests and answers no more, so that some are in flight")
        begun = time.monotonic()
        self._event("a loses power")
        ended = self._machines["a"].power_off()
        self._tell("the link is down; everything on a has ended, and nobody was told")
        return Cut(begun, ended)

    def _follow_leaders(self) -> int:
        """Have the members asked for their leader from now on; return the id of the present one."""
        before = self.leader_by("b")
        addresses = [f"{name}={self._machines[name].address}:{CLIENT_PORT}" for name in _SURVIVORS]
        self._leaders = self._stage.start_python(
            "leaders", leaders.__file__, *addresses, under=self._machines.lan.enter
        )
        self._stage.wait(
            lambda: self._leaders.output.count("\n") >= len(addresses), "etcd is asked for its leader", _START_SECONDS
        )
        return before

    def _elect(self, cut: Cut, before: int) -> float:
        found = list[Leader]()

        def is_elected() -> bool:
            lines = self._leaders.output.splitlines(keepends=True)
            leader = elected((line for line in lines if line.endswith("\n")), _SURVIVORS, before)
            found.extend([leader] if leader else [])
            return bool(found)

        self._stage.wait(is_elected, "etcd to have a leader", _START_SECONDS)
        self._stage.stop(self._leaders)
        seconds = found[0].at - cut.begun
        self._event(f"etcd's leader is on {found[0].machine}", found[0].at)
        self._tell(f"etcd has a new leader, on {found[0].machine}, {seconds:.1f} s after the loss of power")
        return seconds

    def _move(self) -> None:
        self._step("Apache starts on the spare machine, with its two companions")
        spare = self._machines["spare"]
        self._start("spare", provider(spare.address, str(spare.socket)))
        self._event("Apache starts on the spare machine")
        self._tell("docker-register waits: the record is still a's, until its lease ends")
        host = next(host for host, name in self._hosts.items() if name == "spare")
        self._stage.wait(
            lambda: any(each.by == host for each in self._requests()), "Apache on spare answers", _START_SECONDS
        )
        first = min(each.ended for each in self._requests() if each.by == host)
        self._event("Apache on the spare machine answers", first)
        self._tell("Apache on the spare machine answers, and every request that waited was answered")
        self._more("spare")

    def _return(self) -> None:
        self._step("Machine a returns")
        a = self._machines["a"]
        a.power_on()
        self._event("a returns")
        self._machines.start_etcd("a")
        (register,) = self._start("a", provider(a.address, str(a.socket)))[-1:]
        self._stage.wait(
            lambda: _REFUSED in a.docker_logs(register), "docker-register on a is refused the record", _START_SECONDS
        )
        self._until(lambda: self._led(list(self._machines.by_name), 3), "etcd to have three members")
        self._tell("docker-register on a was refused the record, which the spare machine holds; etcd has three members")
        self._more("spare")

    def _end_requests(self) -> list[Request]:
        self._step("End the requests")
        self._traffic.process.send_signal(signal.SIGTERM)
        self._stage.complete(self._traffic, "every request has ended", traffic.LIMIT + 10)
        requests = self._requests()
        self._tell(f"{len(requests)} requests have ended")
        return [each._replace(by=self._hosts.get(each.by, each.by)) for each in requests]

    def _start(self, name: str, containers: Iterable[Container]) -> list[str]:
        """Start containers on a machine, as the units of the tutorial do, and return the ids of the containers."""
        machine, ids = self._machines[name], list[str]()
        for container in containers:
            self._tell(f"{name}$ {container.command.replace(str(machine.socket), '/var/run/docker.sock')}")
            if container.name:
                machine.docker_remove(container.name)
            ids.append(machine.docker("run", "-d", *container.arguments).strip())
            if container.role == "apache":
                self._hosts[ids[-1][:12]] = name
            self._stage.check()
        return ids

    def _probe(self, host: str) -> None:
        """Wait until the page is served."""
        program = f"from urllib.request import urlopen; urlopen('http://{host}/', timeout=60)"
        deadline = time.monotonic() + _START_SECONDS
        while True:
            probe = self._stage.start_python("probe", "-c", program, under=self._machines.lan.enter)
            try:
                self._stage.complete(probe, "the page is served")
            except StepFailedError:  # HAProxy does not listen yet
                if time.monotonic() > deadline:
                    raise
            else:
                return

    def _more(self, name: str) -> None:
        """Wait until a while's requests have been answered by the Apache of a machine."""
        host = next(host for host, machine in self._hosts.items() if machine == name)
        enough = sum(each.by == host for each in self._requests()) + round(_STEADY * self._options.rate)
        self._stage.wait(
            lambda: sum(each.by == host for each in self._requests()) >= enough,
            f"Apache on {name} answers requests",
            _START_SECONDS,
        )

    def _requests(self) -> list[Request]:
        return read_requests(self._traffic_file.read_text().splitlines(keepends=True))

    def _led(self, names: list[str], number: int) -> list[Member]:
        """Return the members of these machines if so many answer and agree on a leader among them."""
        members = self._machines.members(*names)
        leaders = {each.leader for each in members}
        agreed = len(members) == number and len(leaders) == 1 and leaders <= {each.id for each in members}
        return members if agreed else []

    def _until(self, condition: Callable[[], list[Member]], what: str) -> list[Member]:
        found = list[Member]()

        def holds() -> bool:
            found[:] = condition()
            return bool(found)

        self._stage.wait(holds, what, _START_SECONDS)
        return found

    def _event(self, text: str, at: float | None = None) -> None:
        self._events.append(Event(time.monotonic() if at is None else at, text))

    def _step(self, text: str) -> None:
        self._say(f"\n{time.monotonic() - self._began:6.1f} s  {text}")

    def _tell(self, text: str) -> None:
        self._say(f"{time.monotonic() - self._began:6.1f} s    {text}")

    def _say(self, text: str) -> None:
        print(text, file=self._output, flush=True)
