"""Methods of plugins may be plain functions: each is called as its coroutine function would be."""

import asyncio
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import providers
import pytest
import structlog
from consumers import at, instance, phase_is, recorder, running
from synchronous import Defaults, Finds, Mixed, Options, Plain

from discovery import Consumer, Health, Inventory, Update
from discovery.checks import Check, Outcome, Verdict
from discovery.consuming.resolving import Resolved
from discovery.consuming.runner import ConsumerInstance, ConsumerRunner
from discovery.daemon.instances import Instances
from discovery.daemon.once import apply_once, preview, survey
from discovery.daemon.validation import NOTHING, validate_instances
from discovery.hosting.directories import Directories
from discovery.hosting.isolation import Phase, Timing
from discovery.providing.runner import ProviderInstance
from discovery.system.either import Ready, completed, iterated
from discovery.testing import ConsumerContract, ProviderContract, eventually, eventually_sync, within

ROOT = Path(__file__).parents[2]
LOG = structlog.get_logger()


def plain(**methods: Any) -> type[Plain]:
    return type("Plainly", (Plain,), {"calls": [], **methods})


def made(consumer: type[Consumer[Any]], tag: str = "") -> ConsumerInstance:
    return ConsumerInstance("it", "test", consumer, Options(tag=tag))


def test_every_method_runs_on_the_thread_of_the_instance(tmp_path: Path) -> None:
    consumer = plain()
    with running(made(consumer), tmp_path) as runner:
        runner.offer(at(1, 80))
        eventually_sync(lambda: runner.status.applied_revision == 1)
        assert '["127.0.0.1", "web", ' in (tmp_path / "it/addresses").read_text()
        runner.reconfigure(made(consumer, tag="other"))
        eventually_sync(lambda: runner.status.health == Health(detail="tag other"))
        assert asyncio.run(runner.inspect(within(5))) == {"tag": "other"}
        runner.hand_over()
    names = [name for name, _ in consumer.calls]
    assert names == ["setup", "apply", "reconfigure", "apply", "inspect", "hand_over", "teardown"]
    threads = {thread for _, thread in consumer.calls}
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_a_plain_apply_that_fails_is_tried_again(tmp_path: Path) -> None:
    attempts: list[int] = []

    def apply(self: Plain, update: Update) -> None:
        attempts.append(update.snapshot.revision)
        if len(attempts) < 2:
            raise OSError("not yet")

    with running(made(plain(apply=apply)), tmp_path) as runner:
        runner.offer(at(1, 80))
        eventually_sync(lambda: runner.status.error == "OSError: not yet")
        eventually_sync(lambda: runner.status.applied_revision == 1 and runner.status.error is None)


def test_a_plain_method_that_blocks_harms_no_other_instance(tmp_path: Path) -> None:
    entered, leave = threading.Event(), threading.Event()

    def apply(self: Plain, update: Update) -> None:
        entered.set()
        leave.wait(within(30))

    other = recorder()
    with running(made(plain(apply=apply)), tmp_path) as blocked, running(instance(other, "other"), tmp_path) as runner:
        blocked.offer(at(1, 80))
        assert entered.wait(within(5))
        runner.offer(at(1, 80))
        eventually_sync(lambda: runner.status.applied_revision == 1)
        assert phase_is(blocked, Phase.APPLYING)()
        leave.set()


def test_a_plain_health_that_blocks_is_reported(tmp_path: Path) -> None:
    leave = threading.Event()

    def health(self: Plain) -> Health:
        leave.wait(within(30))
        return Health()

    with running(made(plain(health=health)), tmp_path, Timing(health_timeout=0.05)) as runner:
        eventually_sync(lambda: str(runner.status.problem).startswith("its health has not answered within"))
        leave.set()
        eventually_sync(lambda: runner.status.problem is None)


async def test_a_mixture_and_the_defaults_of_the_base_class(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for consumer in (Mixed, Defaults):
            runner = ConsumerRunner(made(consumer, tag="x"), tmp_path, LOG)
            runner.start()
            await eventually(lambda runner=runner: runner.status.set_up)
            told = await runner.inspect(within(5))
            assert told == ({"mixed": "x"} if consumer is Mixed else {})
            runner.stop()
            assert await runner.join(within(5))
            assert runner.status.phase is Phase.STOPPED


async def test_a_default_may_be_awaited_run_as_a_task_or_left() -> None:
    ready = Ready(5)
    assert await ready == 5
    assert await asyncio.create_task(ready) == 5
    assert await completed(ready) == await completed(5) == 5
    assert asyncio.iscoroutine(ready)


async def test_a_single_pass_and_the_checks_of_a_configuration(tmp_path: Path) -> None:
    directories = Directories(tmp_path / "run", tmp_path / "state")
    resolved = Resolved(at(1, 80), {})
    port = tmp_path / "port"
    port.write_text("80")
    finds = ProviderInstance("finds", "test", Finds, Options(path=port))
    consumers = {"it": made(plain())}
    found = await validate_instances(Instances(consumers, {"finds": finds}, {}), [NOTHING], directories, LOG)
    assert found.unchecked == ("consumers.it: nothing was looked at",)
    previewed = await preview(consumers.values(), resolved, directories, LOG)
    assert '\n+["127.0.0.1", "web", ' in str(previewed["it"])
    assert await apply_once(consumers.values(), resolved, directories, LOG) == {}
    assert '["127.0.0.1", "web", ' in (tmp_path / "run/it/addresses").read_text()
    half = made(plain(health=lambda _: Health(problems={"service web": "no port"})))
    assert await apply_once([half], resolved, directories, LOG) == {"it": "service web: no port"}
    surveyed: Any = await survey([finds], directories, LOG, within(5))
    assert list(surveyed["finds"].candidates) == ["web/127.0.0.1:80"]


def test_a_plain_generator_blocks_neither_checks_nor_the_end(tmp_path: Path) -> None:
    verdicts = [Verdict.PASSING]
    probes: list[float] = []
    leave = threading.Event()
    closed = threading.Event()

    async def probe(backend: Any) -> Outcome:
        probes.append(time.monotonic())
        return Outcome(verdicts[0])

    def discover(self: Any) -> Iterator[Inventory]:
        try:
            yield providers.found(80, checks=(Check(probe, interval=0.01, rise=1, fall=1),))
            leave.wait(within(30))
        finally:
            closed.set()

    made = providers.instance(providers.finder(None, discover=discover))
    with providers.running(made, tmp_path, Timing(step=0.1)) as it:
        it.publishes(80)
        verdicts[0] = Verdict.FAILING
        it.publishes()  # while the generator blocks
    assert it.runner.status.phase is Phase.STOPPED  # although the generator still blocks
    assert not closed.is_set()
    leave.set()
    assert closed.wait(within(5))


def test_a_plain_generator_is_begun_again_after_a_fault(tmp_path: Path) -> None:
    begun: list[int] = []

    def discover(self: Any) -> Iterator[Inventory]:
        begun.append(threading.get_ident())
        yield providers.found(80 + len(begun))
        if len(begun) < 2:
            raise OSError("lost")
        if len(begun) < 3:
            return
        while True:
            yield providers.found(80 + len(begun))
            time.sleep(0.01)

    with providers.running(providers.instance(providers.finder(None, discover=discover)), tmp_path) as it:
        it.publishes(83)
        reasons = [each["reason"] for each in it.logged("discovery failed")]
    assert reasons == ["OSError: lost", "the provider has ended its discovery by itself"]
    assert len(begun) == 3


async def test_what_is_no_generator_is_named() -> None:
    async def coroutine() -> None: ...

    for wrong, name in ((None, "NoneType"), (Inventory(), "Inventory"), (coroutine(), "coroutine")):
        with pytest.raises(TypeError, match=f"it is a {name}, and neither"):
            await anext(iterated(wrong))  # type: ignore[arg-type]


@pytest.mark.exhaustive
def test_type_checkers_accept_both_forms() -> None:
    mypy = (sys.executable, "-m", "mypy", "--strict", "--no-warn-unused-ignores", "tests/support/synchronous.py")
    ran = subprocess.run(mypy, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


class TestPlainConsumer(ConsumerContract):
    consumer = Plain

    @contextmanager
    def sabotage(self, run_dir: Path) -> Iterator[None]:
        (run_dir / "addresses.new").mkdir()
        try:
            yield
        finally:
            (run_dir / "addresses.new").rmdir()


class TestPlainProvider(ProviderContract):
    provider = Finds

    def setup_method(self) -> None:
        self._place = contextmanager(_directory)()
        self._file = self._place.__enter__() / "port"
        self.config: Mapping[str, Any] = {"path": str(self._file)}

    def teardown_method(self) -> None:
        self._place.__exit__(None, None, None)

    def arrange(self, world: int) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(str(80 + world))
        new.replace(self._file)

    def blind(self) -> AbstractContextManager[object]:
        @contextmanager
        def blinded() -> Iterator[None]:
            text = self._file.read_text()
            self._file.unlink()
            try:
                yield
            finally:
                self._file.write_text(text)

        return blinded()


def _directory() -> Iterator[Path]:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)
