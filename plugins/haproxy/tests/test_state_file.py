"""The server-state file: the states of a server are forgotten in place, and HAProxy reads the others."""

from pathlib import Path

from discovery_haproxy.managed.state_file import StateFile

HEADER = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state\n"
ROWS = ["3 web 1 a 10.0.0.1 2\n", "3 web 2 b 10.0.0.2 0\n", "4 api 1 a 10.0.0.1 2\n", "4 api 2 aa 10.0.0.9 2\n"]


def test_the_states_of_a_server_become_a_comment_in_place(tmp_path: Path) -> None:
    path = tmp_path / "servers.state"
    states = StateFile(path)
    states.write(HEADER + "".join(ROWS))
    inode = path.stat().st_ino
    states.forget({("web", "b"), ("api", "a"), ("api", "b"), ("other", "a")})
    assert path.read_text() == HEADER + ROWS[0] + f"#{ROWS[1][1:]}#{ROWS[2][1:]}" + ROWS[3]
    assert (path.stat().st_ino, path.stat().st_mode & 0o777) == (inode, 0o600)


def test_the_states_of_an_earlier_daemon_are_forgotten_too(tmp_path: Path) -> None:
    path = tmp_path / "servers.state"
    path.write_text(HEADER + "".join(ROWS))
    StateFile(path).forget({("api", "aa")})
    assert path.read_text() == HEADER + "".join(ROWS[:3]) + f"#{ROWS[3][1:]}"


def test_a_missing_file_has_nothing_to_forget(tmp_path: Path) -> None:
    StateFile(tmp_path / "servers.state").forget({("web", "a")})
    assert not list(tmp_path.iterdir())
