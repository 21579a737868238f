"""State of a workspace: its contents, running work, and faults with the commands that repair them.

It changes nothing and opens no shards. `numerate corpus verify` finds damage that only hashes show.
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, TypeVar
from urllib.error import URLError
from urllib.request import Request, urlopen

from flows.common.engines import reachable_api
from flows.common.parameters import WORKSPACE
from flows.diagnostics.inventory import (
    CorpusState,
    Fault,
    Inventory,
    TokenizerState,
    TokensState,
    corpus_state,
    tokenizer_state,
    tokens_state,
)
from flows.diagnostics.run_inventory import RunState, run_state
from flows.server.run_tags import belongs_to
from storage.errors import UserError
from storage.workspace import Workspace

# Time limit for checking sizes of shards in the whole workspace.
_SECONDS = 3.0
_API_SECONDS = 1.0
_DAMAGED = "damaged"
_LONGEST = 200
# Prefect's limit for one request.
_RUNS = 200

State = TypeVar("State")


@dataclass(frozen=True)
class FlowRun:
    """A flow run that a Prefect server reports as running."""

    name: str
    state: str
    since: str


@dataclass
class Status:
    """The status, as `--json` prints it."""

    workspace: str
    exists: bool
    free_bytes: int | None
    corpora: list[CorpusState] = field(default_factory=list)
    tokenizers: list[TokenizerState] = field(default_factory=list)
    tokens: list[TokensState] = field(default_factory=list)
    runs: list[RunState] = field(default_factory=list)
    at_work: list[str] = field(default_factory=list)
    """Work that processes are doing now, such as writes and queries."""
    flows: list[FlowRun] = field(default_factory=list)
    broken: list[Fault] = field(default_factory=list)

    def json(self) -> str:
        """The status as JSON text."""
        return json.dumps(asdict(self), indent=2)


def status_of(workspace: str = WORKSPACE) -> Status:
    """Read the state of a workspace within a few seconds; raises `UserError` if a named workspace does not exist."""
    opened = Workspace.open(workspace)
    status = Status(str(opened.root), opened.root.exists(), opened.root.free_bytes())
    if not status.exists:
        if workspace != WORKSPACE:
            raise UserError(f"workspace {opened.root} does not exist: choose another with --workspace")
        return status
    inventory, root = Inventory(workspace), opened.root
    inspect = partial(_inspected, inventory)
    corpora = [root / "corpora" / name for name in (root / "corpora").children()]
    tokenizers = [root / "tokenizers" / name for name in (root / "tokenizers").children()]
    tokens = [(folder.name, folder / "tokens" / name) for folder in corpora for name in (folder / "tokens").children()]
    runs = [root / "runs" / name for name in (root / "runs").children()]
    deadline = _deadlines(len(corpora) + len(tokens))
    status.corpora = _without_none(
        inspect(f"corpus {folder.name}", CorpusState(folder.name, _DAMAGED), corpus_state, folder, deadline())
        for folder in corpora
    )
    status.tokenizers = _without_none(
        inspect(f"tokenizer {folder.name}", TokenizerState(folder.name, _DAMAGED), tokenizer_state, folder)
        for folder in tokenizers
    )
    for corpus, folder in tokens:
        subject, damaged = f"tokens of {corpus} by {folder.name}", TokensState(corpus, folder.name, _DAMAGED)
        status.tokens += _without_none([inspect(subject, damaged, tokens_state, corpus, folder, deadline())])
    status.runs = _without_none(
        inspect(f"run {folder.name}", RunState(folder.name, _DAMAGED), run_state, folder) for folder in runs
    )
    spill = root / ".spill"
    queries = ["a SQL query" for name in spill.children() if (spill / name).is_locked()]
    status.at_work, status.broken = [*inventory.at_work, *queries], inventory.faults
    status.flows = running_flows(opened)
    return status


def running_flows(workspace: Workspace) -> list[FlowRun]:
    """Flow runs in the workspace that a Prefect server reports as running; none if no server responds.

    The server is the configured one, or that of a `numerate serve` of the workspace.
    """
    url, headers = reachable_api(workspace)
    if not url:
        return []
    filters = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "CANCELLING", "PENDING"]}}}, "limit": _RUNS}
    headers |= {"Content-Type": "application/json"}
    try:
        request = Request(f"{url}/flow_runs/filter", json.dumps(filters).encode(), headers)
        with urlopen(request, timeout=_API_SECONDS) as response:
            runs: list[dict[str, Any]] = json.load(response)
        return [
            FlowRun(run["name"], run["state_name"], run.get("start_time") or "")
            for run in runs
            if belongs_to(workspace, run["tags"])
        ]
    except (URLError, OSError, ValueError, LookupError, TypeError):
        return []


def _inspected(
    inventory: Inventory, subject: str, damaged: State, inspect: Callable[..., State | None], *arguments: Any
) -> State | None:
    """Call `inspect`; an unexpected error becomes a fault of this one item and does not hide others."""
    try:
        return inspect(inventory, *arguments)
    except Exception as error:
        text = " ".join(str(error).split())[:_LONGEST]
        inventory.fault(subject, f"cannot be read ({type(error).__name__}: {text})")
        return damaged


def _without_none(states: Iterable[State | None]) -> list[State]:
    return [state for state in states if state is not None]


def _deadlines(datasets: int) -> Callable[[], float]:
    """Return a function that gives each dataset's deadline: the remaining time is divided evenly."""
    end, left = time.monotonic() + _SECONDS, datasets

    def next_deadline() -> float:
        """Deadline of the next dataset."""
        nonlocal left
        now, left = time.monotonic(), left - 1
        return now + max(0.0, end - now) / (left + 1)

    return next_deadline
