"""A process that ends without the destructors of libraries writes all it printed, and runs what was registered."""

import os
import subprocess
import sys

import pytest

_PROGRAM = """
import atexit, sys, threading, time
from storage.ending import end_process

atexit.register(lambda: print("registered"))
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
print("printed", file=sys.stderr)
end_process({code})
"""


@pytest.mark.parametrize("code", [0, 2])
def test_nothing_that_was_printed_or_registered_is_lost(code: int) -> None:
    command = [sys.executable, "-c", _PROGRAM.format(code=code)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "thread\nregistered\n", "printed\n")


def test_output_that_cannot_be_written_is_no_success() -> None:
    program = "from storage.ending import end_process; print('printed'); end_process(0)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        ended = subprocess.run([sys.executable, "-c", program], stdout=full, env=environment, check=False)
    assert ended.returncode == 120
