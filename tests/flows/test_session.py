"""A private Ray is its user's alone: it asks for a token, keeps that to itself, and opens no dashboard."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

_HOLD = """
import sys
from flows.session import ray_session
with ray_session(cpus=1):
    import ray
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""
_JOIN = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False); print(ray.cluster_resources()['CPU'])"


def as_user(home: Path, mode: str = "token") -> dict[str, str]:
    """The environment of somebody on this machine."""
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
def test_a_private_ray_takes_its_user_alone_and_opens_no_dashboard(
    private: tuple[str, psutil.Process], tmp_path: Path
) -> None:
    address, process = private
    token = tmp_path / "me" / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600
    other = tmp_path / "other" / ".ray" / "auth_token"

    def join(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """What a client gets."""
        command = [sys.executable, "-c", _JOIN, address]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)

    assert join(as_user(tmp_path / "me")).stdout == "1.0\n"
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
    # Without its pages the process only counts; its counters may be read on a port of their own.
    assert all("--disable-frontend" in each.cmdline() for each in dashboards)
