"""Follows a registry by a helper process, for applications without an event loop."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO, Any, cast

from discovery.errors import DiscoveryError
from discovery.library.background import Background
from discovery.library.following import FollowerState
from discovery.library.frames import Decoder
from discovery.library.logs import to_logging
from discovery.library.process import error_of, start_helper
from discovery.system.backoff import delays

_FIRST_DELAY, _MOST_DELAY = 0.2, 10.0
"""Seconds until a helper that has died is replaced; they double."""
_END_SECONDS = 5.0
"""Seconds for the end of the helper, which writes the last good snapshot."""
_PIPE_BYTES = 1 << 16
"""Bytes of one read: what a pipe holds."""


class HelperReader(Background):
    """Reads what a helper process tells of a registry. From any thread, and after a fork also in the child."""

    def __init__(self, request: Mapping[str, Any], changed: Callable[[], None] = lambda: None) -> None:
        """Prepare; `start` begins. `request` goes to the helper; `changed` is called on a thread after each change."""
        super().__init__()
        self._request = json.dumps(request).encode() + b"\n"
        self._told = changed
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._decoder = Decoder()
        self._is_closed = False
        self._is_dormant = False
        self._state = FollowerState()
        self._error: DiscoveryError | None = None

    @property
    def state(self) -> FollowerState:
        """The state now. Raises OSError in a forked child that can start no helper."""
        self._awake()
        return self._state

    def start(self) -> None:
        """Start the helper, and read. Raises OSError if no process can be started."""
        self._process = self._spawn()
        self._start_thread()

    def close(self) -> None:
        """End the helper. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._call()
        self._join(_END_SECONDS)
        self._retire()
        self._end(self._process)
        with self._changed:
            self._process = None
            self._changed.notify_all()

    def wait_until(self, holds: Callable[[FollowerState], object], timeout: float | None) -> FollowerState | None:
        """Return the state once `holds` is true of the state; None after `timeout` seconds, and once closed.

        Raises the error that has ended the helper's work.
        """
        self._awake()
        until = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not holds(self._state):
                if self._error is not None:
                    raise self._error
                left = None if until is None else until - time.monotonic()
                if self._is_closed or (left is not None and left <= 0):
                    return None
                self._changed.wait(left)
            return self._state

    def _spawn(self) -> "subprocess.Popen[bytes]":
        process = start_helper("follow", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        requests = cast("IO[bytes]", process.stdin)
        with suppress(BrokenPipeError):  # it has died, which reading notices
            requests.write(self._request)
            requests.flush()
        self._buffer = b""
        self._decoder = Decoder()
        return process

    def _work(self) -> None:
        retries = delays(_FIRST_DELAY, _MOST_DELAY)
        while not self._is_closed and not self._is_paused and self._error is None:
            process = self._process
            if process is None:
                try:
                    self._process = self._spawn()
                except OSError as error:
                    self._lose(f"no helper process can be started: {error.strerror}")
                    self._wait(timeout=next(retries))
                continue
            descriptor = cast("IO[bytes]", process.stdout).fileno()
            if descriptor not in self._wait(descriptor):
                continue
            data = os.read(descriptor, _PIPE_BYTES)
            if not data:
                self._end(process)
                self._process = None
                self._lose(f"the helper process has ended with status {process.returncode}; another is started")
                self._wait(timeout=next(retries))
                continue
            *lines, self._buffer = (self._buffer + data).split(b"\n")
            for line in lines:
                retries = delays(_FIRST_DELAY, _MOST_DELAY)
                self._take(json.loads(line))

    def _take(self, frame: Mapping[str, Any]) -> None:
        if (line := frame.get("log")) is not None:
            to_logging(*line)
            return
        with self._changed:
            if (error := frame.get("error")) is not None:
                self._error = error_of(error)
            else:
                self._state = self._decoder.state(frame["state"])
            self._changed.notify_all()
        self._told()

    def _lose(self, reason: str) -> None:
        with self._changed:
            before = self._state
            self._state = FollowerState(
                before.snapshot, reason, before.from_disk, before.held, before.true_at or time.time()
            )
            self._changed.notify_all()
        to_logging(30, reason)
        self._told()

    def _begin_anew(self) -> None:
        # The parent's helper goes on for the parent. A child that never asks starts none of its own.
        process, self._process = self._process, None
        self._is_dormant = not self._is_closed
        if process is not None:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
            process.returncode = 0  # it is no child of this process

    def _awake(self) -> None:
        with self._changed:
            is_dormant, self._is_dormant = self._is_dormant, False
        if is_dormant:
            self.start()

    @staticmethod
    def _end(process: "subprocess.Popen[bytes] | None") -> None:
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
