"""The consumer keeps the contract of consumers. The process of the tests stands in for the balancer."""

import os
import signal
from pathlib import Path

from discovery.testing import ConsumerContract

from discovery_balancer import BalancerConsumer

CONFIGURATION = Path("/tmp/balancer-under-test.conf")
PID_FILE = Path("/tmp/balancer-under-test.pid")


class TestContract(ConsumerContract):
    consumer = BalancerConsumer
    config = {"service": "web", "path": CONFIGURATION, "pid_file": PID_FILE}

    def setup_method(self, method: object) -> None:
        signal.signal(signal.SIGHUP, lambda *_: None)
        PID_FILE.write_text(str(os.getpid()))

    def world(self, run_dir: Path) -> object:
        return CONFIGURATION.read_text()
