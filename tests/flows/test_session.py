"""A private Ray instance requires a token, has no dashboard and uses only the granted cores."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest
import ray

from flows.cluster import connect
from flows.common import engines
from flows.common.engines import ray_session

_HOLD = """
import sys
from flows.common.engines import ray_session
with ray_session(cpus=1):
    import ray
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""
_JOIN = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False); print(ray.cluster_resources()['CPU'])"


def as_user(home: Path, mode: str = "token") -> dict[str, str]:
    """The environment of a user of this machine."""
    home.mkdir(exist_ok=True)
    return {**os.environ, "HOME": str(home), "RAY_AUTH_MODE": mode}


@pytest.fixture
def private(tmp_path: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Address and process of a private Ray, of a user who has no token and turned it off for a cluster's sake."""
    command = [sys.executable, "-c", _HOLD]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=as_user(tmp_path / "me", "disabled"), stdin=pipe, stdout=pipe, text=True
    ) as held:
        assert held.stdout
        assert held.stdin
        yield held.stdout.readline().strip(), psutil.Process(held.pid)
        held.stdin.close()


@pytest.mark.slow
def test_private_ray_requires_a_token_and_has_no_dashboard(private: tuple[str, psutil.Process], tmp_path: Path) -> None:
    address, process = private
    token = tmp_path / "me" / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600
    other = tmp_path / "other" / ".ray" / "auth_token"

    def join(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """What a client gets."""
        command = [sys.executable, "-c", _JOIN, address]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)

    mine = join(as_user(tmp_path / "me"))
    assert mine.stdout == "1.0\n", mine.stderr[-2_000:]
    without = join(as_user(tmp_path / "other", "disabled"))
    other.parent.mkdir()
    other.write_text("f" * 64)
    wrong = join(as_user(tmp_path / "other"))
    for refused in (without, wrong):
        assert refused.returncode != 0
        assert refused.stdout == ""
        assert "AuthenticationError" in refused.stderr, refused.stderr[-2_000:]
    dashboards = [
        each for each in process.children(recursive=True) if any("dashboard.py" in word for word in each.cmdline())
    ]
    assert dashboards
    # Without its pages the process only counts; its counters may be read on a port of their own.
    assert all("--disable-frontend" in each.cmdline() for each in dashboards)


def test_token_of_ray_is_readable_by_its_owner_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    before = os.umask(0)
    try:
        for _ in range(2):
            engines._require_token()
            token = tmp_path / ".ray" / "auth_token"
            assert token.stat().st_mode & 0o777 == 0o600
            assert len(token.read_text()) == 64
            # As Ray itself would have left it.
            token.chmod(0o644)
    finally:
        os.umask(before)


def test_logs_of_a_private_ray_are_readable_by_its_owner_alone(ray_instance: int) -> None:
    folder = Path(ray._private.worker._global_node.get_session_dir_path())
    assert any((folder / "logs").iterdir())
    assert folder.stat().st_mode & 0o777 == 0o700


def test_private_ray_uses_the_granted_cores_and_a_short_health_check_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, started = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", list[int]()
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {7})
    monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: started.append(options["num_cpus"]))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "cluster_resources", dict)
    monkeypatch.setattr(connect, "joined", lambda address, workspace: nullcontext())
    with ray_session("head:6379"):
        assert name not in os.environ
    with ray_session():
        assert os.environ[name] == "0.1"
    assert (name in os.environ, started) == (False, [1])
