"""Starts a peer in its own environment and asks it for rates, so that both are timed by turns in one run."""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PYTHON = Path(__file__).parents[2] / ".venv-peers" / "bin" / "python"


class PeerMissingError(RuntimeError):
    """A peer that can't be started here; says why in one line."""


class Peer:
    """A running peer."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.detail: str = self._answer()

    def rate(self) -> float:
        """One timing of its work."""
        assert self._process.stdin
        print(file=self._process.stdin, flush=True)
        return float(self._answer())

    def _answer(self) -> Any:
        assert self._process.stdout
        if line := self._process.stdout.readline():
            return json.loads(line)
        raise PeerMissingError("it ended before it answered")


@contextmanager
def peer(name: str, **values: Any) -> Iterator[Peer]:
    """A peer that is ready; raises `PeerMissingError` where its environment is missing or it can't be started."""
    if not PYTHON.exists():
        raise PeerMissingError("its environment is missing, run make peers")
    # Isolated: the modules beside the script have names that the peers' own libraries have too.
    command = [str(PYTHON), "-I", str(Path(__file__).with_name("peer.py")), name, json.dumps(values)]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            yield Peer(process)
        except PeerMissingError as error:
            errors.seek(0)
            raise PeerMissingError(([str(error), *errors.read().splitlines()])[-1]) from error
        finally:
            process.kill()
            process.communicate()
