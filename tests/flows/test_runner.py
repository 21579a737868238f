"""Orphaned runs, and the time that a cancelled run has to end."""

import asyncio
import socket
import subprocess
import sys
import uuid
from typing import Any

import psutil
import pytest
from prefect.runner._process_manager import ProcessHandle, ProcessManager

from flows.server import run_tags as marks
from flows.server.run_tags import process_has_ended, process_tag
from flows.server.runner import PatientProcesses

# It says when it is ready, and takes longer to end than Prefect lets it.
_SLOW = """
import signal, sys, time
def end(number, frame):
    time.sleep(2)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(("processes", "code"), [(PatientProcesses, 0), (ProcessManager, -9)])
def test_cancelled_run_may_take_longer_than_prefects_limit(processes: type[ProcessManager], code: int) -> None:
    run = uuid.uuid4()

    async def cancelled() -> int | None:
        """The exit code of a slow run that is cancelled as Prefect's runner does it, by a clock that runs faster."""
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", _SLOW, stdout=subprocess.PIPE)
        assert process.stdout
        assert await process.stdout.readline() == b"ready\n"
        async with processes() as manager:
            await manager.add(run, ProcessHandle(process))  # type: ignore[arg-type]  (a process all the same)
            await manager.kill(run, grace_seconds=0)
            return await process.wait()

    assert asyncio.run(cancelled()) == code


def tag(**changed: str) -> str:
    """The mark of this process, changed."""
    parts = dict(
        zip(("process", "machine", "boot", "namespace", "pid", "began"), process_tag().split(":"), strict=True)
    )
    return ":".join({**parts, **changed}.values())


def a_dead_process() -> dict[str, str]:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return {"pid": str(ended.pid), "began": f"{psutil.boot_time():.0f}"}


@pytest.mark.parametrize(
    ("changed", "gone"),
    [
        pytest.param({}, False, id="this process"),
        pytest.param({"began": "7"}, True, id="its number, given again"),
        pytest.param(a_dead_process(), True, id="ended"),
        pytest.param({**a_dead_process(), "machine": "other"}, False, id="of another machine"),
        pytest.param({**a_dead_process(), "namespace": "1"}, False, id="of another container"),
        pytest.param({"machine": "other", "boot": "before"}, False, id="of another machine, started at another time"),
        pytest.param({"pid": "x"}, False, id="no number"),
    ],
)
def test_process_has_ended_only_if_this_is_certain(changed: dict[str, str], gone: bool) -> None:
    assert process_has_ended(["numerate", tag(**changed)]) is gone


def test_a_reboot_counts_only_outside_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two containers on different machines can have the same host name and the same image.
    before = tag(boot="before")
    for number, gone in ((before.split(":")[3], True), ("1", False)):
        monkeypatch.setattr(marks, "_NO_CONTAINER", number)
        assert process_has_ended([before]) is gone


def test_machines_with_equal_names_or_images_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = process_tag()
    texts: dict[str, Any] = {"/etc/machine-id": "another", "/proc/sys/kernel/random/boot_id": "one"}
    monkeypatch.setattr(marks, "_text", lambda path: texts[path])
    same_name = process_tag()
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    same_image = process_tag()
    assert len({each.split(":")[1] for each in (mine, same_name, same_image)}) == 3
    assert not any(process_has_ended([each]) for each in (mine, same_name))
