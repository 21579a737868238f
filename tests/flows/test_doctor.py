"""Findings of `numerate doctor` on good and bad machines, with their remedies."""

import json
import os
import socket
import sys
from collections import namedtuple
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from flows.cli.app import app
from flows.diagnostics import doctor, engine_checks, machine_checks
from flows.diagnostics.doctor import findings, print_findings
from flows.diagnostics.engine_checks import DEEP_CHECKS, ENGINE_CHECKS, check_gpu, check_prefect, check_ray
from flows.diagnostics.machine_checks import MACHINE_CHECKS, Finding
from storage import machine
from storage.errors import RunFailure
from storage.workspace import Workspace

Usage = namedtuple("Usage", ["total", "used", "free"])


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(str(tmp_path / "w"))


def test_machine_checks_return_a_finding_and_change_nothing(workspace: Workspace) -> None:
    for check in MACHINE_CHECKS:
        finding = check(workspace)
        assert finding.text
        assert (finding.level == "ok") == (finding.remedy == ""), finding
    assert not workspace.root.exists()


def test_unsupported_packages_are_reported_with_the_command_that_installs_them(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ["fastapi<0.151,>=0.139", "duckdb<3,>=2.0", "gone>=1", 'psutil>=6; extra == "benchmarks"']
    monkeypatch.setattr(machine_checks.metadata, "requires", lambda name: wanted)
    versions = {"fastapi": "0.165.0", "duckdb": "2.0.0"}
    monkeypatch.setattr(machine_checks, "_version", lambda name: versions.get(name, ""))
    finding = machine_checks.check_packages(workspace)
    assert finding.level == "problem"
    assert "unsupported versions: fastapi 0.165.0, gone is missing (Prefect's server fails" in finding.text
    assert finding.remedy == "run: pip install 'fastapi<0.151,>=0.139' 'gone>=1'"
    versions |= {"fastapi": "0.140.0", "gone": "1"}
    monkeypatch.setattr(machine_checks, "_pins", lambda: {"fastapi": "0.150.0", "duckdb": "2.0.0+cpu"})
    finding = machine_checks.check_packages(workspace)
    assert (finding.level, finding.text) == ("warning", "untested versions: fastapi 0.140.0 (tested: 0.150.0)")
    monkeypatch.setattr(machine_checks, "_pins", dict)
    assert machine_checks.check_packages(workspace).level == "ok"


@pytest.mark.parametrize(
    ("free", "level"), [(50_000_000, "problem"), (1_000_000_000, "warning"), (10_000_000_000, "ok")]
)
def test_small_disk_is_reported(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, free: int, level: str) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(free, 0, free))
    assert machine_checks.check_disk(workspace).level == level


@pytest.mark.parametrize(("kind", "level"), [("ext4", "ok"), ("nfs4", "warning"), ("fuse.sshfs", "warning")])
def test_records_on_a_shared_file_system_are_reported(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, level: str
) -> None:
    monkeypatch.setattr(machine_checks, "configured_api", lambda: "")
    monkeypatch.setattr(machine_checks, "setting", {"PREFECT_HOME": str(tmp_path / "home")}.get)
    parts = [SimpleNamespace(mountpoint="/", fstype="ext4"), SimpleNamespace(mountpoint=str(tmp_path), fstype=kind)]
    monkeypatch.setattr("psutil.disk_partitions", lambda all: parts)
    found = machine_checks.check_records(workspace)
    assert (found.level, kind in found.text) == (level, level == "warning")


def test_workspace_that_is_not_writable_is_a_problem() -> None:
    finding = machine_checks.check_workspace(Workspace.open("/proc/self/nowhere"))
    assert (finding.level, "--workspace" in finding.remedy) == ("problem", True)


def test_limits_of_a_control_group(tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.cores() <= len(os.sched_getaffinity(0))
    assert (machine.granted_cores(tmp_path), machine.granted_memory(tmp_path)) == (None, None)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert (machine.granted_cores(tmp_path), machine.granted_memory(tmp_path)) == (None, None)
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text("1500000000\n")
    assert (machine.granted_cores(tmp_path), machine.granted_memory(tmp_path)) == (0.5, 1_500_000_000)
    (tmp_path / "meminfo").write_text("MemTotal:  9000000 kB\nMemAvailable:    2000000 kB\n")
    # Only what is allocated counts, not the page cache.
    (tmp_path / "memory.stat").write_text("anon 300000000\nfile 900000000\nshmem 100000000\n")
    assert machine.free_memory(tmp_path, tmp_path / "meminfo") == 1_100_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.free_memory(tmp_path, tmp_path / "meminfo") == 2_048_000_000
    (tmp_path / "memory.max").write_text("1500000000\n")
    older = tmp_path / "older"
    (older / "cpu").mkdir(parents=True)
    (older / "memory").mkdir()
    (older / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    (older / "cpu/cpu.cfs_period_us").write_text("100000\n")
    (older / "memory/memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert (machine.granted_cores(older), machine.granted_memory(older)) == (None, None)
    (older / "cpu/cpu.cfs_quota_us").write_text("150000\n")
    assert machine.granted_cores(older) == 1.5
    monkeypatch.setattr(machine_checks, "granted_memory", lambda: 1_500_000_000)
    assert machine_checks.check_memory(workspace).level == "problem"


@pytest.mark.parametrize("version", [1, 2])
def test_cores_are_limited_by_the_own_control_group_and_its_parents(version: int, tmp_path: Path) -> None:
    own, top = tmp_path / "own", tmp_path / "groups" if version == 2 else tmp_path / "groups/cpu"

    def grant(group: str, cores: float) -> None:
        (top / group).mkdir(parents=True, exist_ok=True)
        quota = round(cores * 100_000)
        if version == 2:
            (top / group / "cpu.max").write_text(f"{quota} 100000\n")
        else:
            (top / group / "cpu.cfs_quota_us").write_text(f"{quota}\n")
            (top / group / "cpu.cfs_period_us").write_text("100000\n")

    own.write_text("0::/system/job\n" if version == 2 else "9:memory:/other\n4:cpu,cpuacct:/system/job\n")
    grant("system/job", 5)
    grant("system/other", 1)
    assert machine.granted_cores(tmp_path / "groups", own) == 5
    grant("system", 2.5)
    assert machine.granted_cores(tmp_path / "groups", own) == 2.5
    own.write_text("0::/not/mounted/here\n")
    assert machine.granted_cores(tmp_path / "groups", own) is None
    grant("", 0.5)
    assert machine.granted_cores(tmp_path / "groups", own) == 0.5
    assert machine.cores(tmp_path / "groups") == 1
    grant("", 1_000)
    assert machine.cores(tmp_path / "groups") == len(os.sched_getaffinity(0))


def test_fewer_than_two_cores_are_a_warning(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_checks, "cores", lambda: 1)
    monkeypatch.setattr(machine_checks, "granted_cores", lambda: 1.5)
    finding = machine_checks.check_cores(workspace)
    assert finding.level == "warning"
    assert finding.text.endswith("CPU time limited to 1.5 cores by the control group")
    assert "use two or more cores" in finding.remedy


def test_clock_in_the_past_is_a_problem(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    class Past(datetime):
        @classmethod
        def now(cls, tz: object = None) -> "Past":
            return cls(1970, 1, 1, tzinfo=UTC)

    monkeypatch.setattr(machine_checks, "datetime", Past)
    assert machine_checks.check_clock(workspace).level == "problem"


def answer(monkeypatch: pytest.MonkeyPatch, done: bool, line: str) -> None:
    """What a process of its own, in which an engine is imported, ends with."""
    monkeypatch.setattr(engine_checks, "_python", lambda code, seconds, **environment: (done, line))


def test_engines_that_cannot_be_imported_are_problems(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, False, "ImportError: libcuda.so.1")
    for check in (check_gpu, check_ray, check_prefect):
        finding = check(workspace)
        assert finding.level == "problem"
        assert "ImportError: libcuda.so.1" in finding.text
        assert "pip install" in finding.remedy


def test_gpu_that_torch_cannot_use_is_a_warning(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, True, json.dumps({"version": "2.13.0+cpu", "cuda": "", "gpus": []}))
    monkeypatch.setattr(engine_checks, "has_nvidia", lambda: True)
    assert check_gpu(workspace).level == "warning"
    monkeypatch.setattr(engine_checks, "has_nvidia", lambda: False)
    assert check_gpu(workspace).level == "ok"
    answer(monkeypatch, True, json.dumps({"version": "2.13.0", "cuda": "12.8", "gpus": [["H100", 85 * 10**9]]}))
    assert "H100 with 85 GB" in check_gpu(workspace).text


def test_little_shared_memory_is_a_warning(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, True, "2.60.0")
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(64 << 20, 0, 64 << 20))
    finding = check_ray(workspace)
    assert (finding.level, "--shm-size" in finding.remedy) == ("warning", True)


def test_configured_server_that_does_not_respond_is_a_problem(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, True, "3.8.8")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert check_prefect(workspace).level == "ok"
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    finding = check_prefect(workspace)
    assert (finding.level, "unset PREFECT_API_URL" in finding.remedy) == ("problem", True)


def test_process_that_uses_a_port_is_named() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        assert engine_checks._port(port, str, "Ray needs it").level == "ok"
        server.listen()
        finding = engine_checks._port(port, str, "Ray needs it")
    assert finding.level == "warning"
    assert f"process {os.getpid()} (" in finding.text
    assert finding.text.endswith("Ray needs it")


def test_ports_used_by_a_ray_head_are_ok(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies: list[bytes] = []

    class Dashboard(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(bodies[-1])

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Dashboard) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        for name in ("DASHBOARD_PORT", "HEAD_PORT"):
            monkeypatch.setattr(engine_checks, name, server.server_port)
        for is_head, body, level in ((True, b"success", "ok"), (False, b"<html>", "warning")):
            bodies.append(body)
            answer(monkeypatch, is_head, "used by the head node of a Ray cluster")
            for check in (engine_checks.check_port_8265, engine_checks.check_port_6379):
                finding = check(workspace)
                assert (finding.level, finding.remedy == "") == (level, level == "ok"), finding
        server.shutdown()


def test_process_that_hangs_or_dies_is_a_finding() -> None:
    assert engine_checks._python("print(1)\nprint(2)", 60.0) == (True, "2")
    assert engine_checks._python("raise ValueError('no')", 60.0) == (False, "ValueError: no")
    assert engine_checks._python("import os; os.kill(os.getpid(), 9)", 60.0) == (False, "exit code -9")
    assert engine_checks._python("import time; time.sleep(60)", 0.1) == (False, "no response within 0 s")


def test_problem_is_exit_code_one_and_a_warning_is_zero(capsys: pytest.CaptureFixture[str]) -> None:
    ok, warning = ("disk", Finding("ok", "much")), ("cores", Finding("warning", "few", "get more"))
    print_findings([ok, warning], as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "ok      disk         much",
        "warning cores        few",
        " " * 21 + "get more",
    ]
    with pytest.raises(RunFailure, match="1 problem on this machine") as failure:
        print_findings([ok, ("clock", Finding("problem", "past", "set it"))], as_json=True)
    assert failure.value.exit_code == 1
    values = json.loads(capsys.readouterr().out)
    assert values["findings"][1] == {"name": "clock", "level": "problem", "text": "past", "remedy": "set it"}


def test_failed_check_is_a_warning(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def check_of_nothing(workspace: Workspace) -> Finding:
        raise OSError("no such\nthing")

    monkeypatch.setattr(doctor, "MACHINE_CHECKS", (check_of_nothing,))
    monkeypatch.setattr(doctor, "ENGINE_CHECKS", ())
    (finding,) = findings(workspace)
    assert finding == ("of nothing", Finding("warning", "check failed (OSError: no such thing)"))


@pytest.mark.slow
def test_deep_checks_succeed_on_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app(["doctor", "--deep", "--json", "--workspace", str(tmp_path / "w")], result_action="return_value")
    results = {one["name"]: one for one in json.loads(capsys.readouterr().out)["findings"]}
    assert len(results) == len(MACHINE_CHECKS) + len(ENGINE_CHECKS) + len(DEEP_CHECKS)
    assert results["python"]["text"].endswith(sys.executable)
    assert {results[name]["level"] for name in ("ray", "prefect", "ray starts", "prefect starts")} == {"ok"}
    assert "with" in results["ray starts"]["text"]
    assert not (tmp_path / "w").exists()
