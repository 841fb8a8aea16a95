"""The directories of an instance for what outlives a reboot."""

from pathlib import Path

from consumers import LOG, Recorder, instance

from discovery import Context, PluginConfig
from discovery.consuming.runner import ConsumerRunner
from discovery.hosting.directories import Directories
from discovery.system.statedir import instance_state_dir
from discovery.testing import eventually_sync


def test_daemons_with_other_run_directories_share_no_instance_directory(tmp_path: Path) -> None:
    one, other = (instance_state_dir(tmp_path, tmp_path / run, "edge") for run in ("run-1", "run-2"))
    assert one != other
    assert one == instance_state_dir(tmp_path, tmp_path / "run-1", "edge")
    assert one != instance_state_dir(tmp_path, tmp_path / "run-1", "edge-2")
    assert tmp_path in one.parents


def test_a_context_has_a_state_directory_that_is_not_created(tmp_path: Path) -> None:
    context = Directories(tmp_path / "run", tmp_path / "state").context("edge", LOG)
    assert context.state_dir == instance_state_dir(tmp_path / "state", tmp_path / "run", "edge")
    assert Context("edge", tmp_path / "run", LOG).state_dir == tmp_path / "run" / "state"
    assert list(tmp_path.iterdir()) == []


def test_a_runner_gives_its_consumer_the_state_directory(tmp_path: Path) -> None:
    contexts: list[Context] = []

    class Keeping(Recorder):
        events: list[str] = []

        def __init__(self, config: PluginConfig, context: Context) -> None:
            super().__init__(config, context)  # type: ignore[arg-type]
            contexts.append(context)

    runner = ConsumerRunner(instance(Keeping), tmp_path / "run", LOG, state_dir=tmp_path / "state")
    runner.start()
    eventually_sync(lambda: runner.status.set_up)
    runner.stop()
    assert [context.state_dir for context in contexts] == [tmp_path / "state"]
    assert not (tmp_path / "state").exists()
