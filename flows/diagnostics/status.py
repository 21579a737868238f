"""State of a workspace: its contents, running work, and faults with the commands that repair them.

It changes nothing and opens no shards. `numerate corpus verify` finds damage that only hashes show.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar
from urllib.request import Request, urlopen

from flows.common.engines import reachable_api
from flows.common.parameters import WORKSPACE
from flows.diagnostics.inventory import (
    CorpusState,
    Fault,
    Inventory,
    Item,
    TokenizerState,
    TokensState,
    corpus_state,
    entries_of,
    tokenizer_state,
    tokens_state,
)
from flows.diagnostics.remedies import Remedies
from flows.diagnostics.run_inventory import RunState, run_state
from flows.server.run_tags import belongs_to
from storage.errors import UserError
from storage.workspace import Workspace

# Time limit for checking sizes of shards in the whole workspace.
_SECONDS = 3.0
_API_SECONDS = 1.0
_DAMAGED = "damaged"
_LONGEST = 200
# Prefect's limit for one request, and the most requests.
_RUNS, _PAGES = 200, 25

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


def status_of(workspace: str = WORKSPACE) -> Status:
    """Read the state of a workspace within a few seconds; raises `UserError` if a named workspace does not exist."""
    opened = Workspace.open(workspace)
    status = Status(str(opened.root), opened.root.exists(), opened.root.free_bytes())
    if not status.exists:
        if workspace != WORKSPACE:
            raise UserError(f"workspace {opened.root} does not exist: choose another with --workspace")
        return status
    inventory, root = Inventory(Remedies(workspace)), opened.root
    corpora, tokenizers, runs = (entries_of(root / name) for name in ("corpora", "tokenizers", "runs"))
    tokens = [(corpus.name, folder) for corpus in corpora for folder in entries_of(corpus / "tokens")]
    end, datasets_left = time.monotonic() + _SECONDS, count(len(corpora) + len(tokens), -1)

    def deadline() -> float:
        """Deadline of the next dataset: the remaining time is divided evenly."""
        now = time.monotonic()
        return now + max(0.0, end - now) / next(datasets_left)

    for folder in corpora:
        item = Item(inventory, folder, f"corpus {folder.name}")
        status.corpora += _inspected(item, CorpusState(folder.name, _DAMAGED), corpus_state, deadline())
    for folder in tokenizers:
        item = Item(inventory, folder, f"tokenizer {folder.name}")
        status.tokenizers += _inspected(item, TokenizerState(folder.name, _DAMAGED), tokenizer_state)
    for corpus, folder in tokens:
        item, damaged = (
            Item(inventory, folder, f"tokens of {corpus} by {folder.name}"),
            TokensState(corpus, folder.name, _DAMAGED),
        )
        status.tokens += _inspected(item, damaged, tokens_state, corpus, deadline())
    for folder in runs:
        item = Item(inventory, folder, f"run {folder.name}")
        status.runs += _inspected(item, RunState(folder.name, _DAMAGED), run_state)
    queries = ["a SQL query" for spill in entries_of(root / ".spill") if spill.is_locked()]
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
    states = {"state": {"type": {"any_": ["RUNNING", "CANCELLING", "PENDING"]}}}
    headers |= {"Content-Type": "application/json"}
    found: list[FlowRun] = []
    try:
        # A server can have many runs of other workspaces.
        for page in range(_PAGES):
            filters = {"flow_runs": states, "sort": "ID_DESC", "limit": _RUNS, "offset": page * _RUNS}
            request = Request(f"{url}/flow_runs/filter", json.dumps(filters).encode(), headers)
            with urlopen(request, timeout=_API_SECONDS) as response:
                runs: list[dict[str, Any]] = json.load(response)
            found += [
                FlowRun(run["name"], run["state_name"], run.get("start_time") or "")
                for run in runs
                if belongs_to(workspace, run["tags"])
            ]
            if len(runs) < _RUNS:
                break
        return found
    except (OSError, ValueError, LookupError, TypeError):
        return []


def _inspected(item: Item, damaged: State, inspect: Callable[..., State | None], *arguments: Any) -> list[State]:
    """The state of an item, if there is one; an unexpected error becomes a fault of this item, and hides no others."""
    try:
        state = inspect(item, *arguments)
    except Exception as error:
        text = " ".join(str(error).split())[:_LONGEST]
        item.fault(f"cannot be read ({type(error).__name__}: {text})")
        state = damaged
    return [] if state is None else [state]
