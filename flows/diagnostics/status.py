"""State of a workspace: its contents, running work, and faults with the commands that repair them.

It changes nothing and opens no shards. `numerate corpus verify` finds damage that only hashes show.
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar
from urllib.error import URLError
from urllib.request import Request, urlopen

from flows.common.engines import reachable_api
from flows.common.parameters import WORKSPACE
from flows.diagnostics.inventory import (
    CorpusState,
    Fault,
    Findings,
    TokenizerState,
    TokensState,
    look_at_corpus,
    look_at_tokenizer,
    look_at_tokens,
)
from flows.diagnostics.run_inventory import RunState, look_at_run
from flows.server.run_tags import belongs_to
from storage.errors import UserError
from storage.places.place import Location
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
    place = Workspace.open(workspace)
    status = Status(str(place.root), place.root.exists(), place.root.free_bytes())
    if not status.exists:
        if workspace != WORKSPACE:
            raise UserError(f"workspace {place.root} does not exist: choose another with --workspace")
        return status
    found, root = Findings(workspace), place.root
    corpora = [root / "corpora" / name for name in (root / "corpora").children()]
    tokens = [(folder.name, folder / "tokens" / name) for folder in corpora for name in (folder / "tokens").children()]
    until = _deadlines(len(corpora) + len(tokens))
    status.corpora = _there(
        _looked(found, f"corpus {folder.name}", CorpusState(folder.name, _DAMAGED), look_at_corpus, folder, until())
        for folder in corpora
    )
    folders = [root / "tokenizers" / name for name in (root / "tokenizers").children()]
    status.tokenizers = _there(
        _looked(found, f"tokenizer {folder.name}", TokenizerState(folder.name, _DAMAGED), look_at_tokenizer, folder)
        for folder in folders
    )
    status.tokens = _there(
        _looked(
            found,
            f"tokens of {corpus} by {folder.name}",
            TokensState(corpus, folder.name, _DAMAGED),
            look_at_tokens,
            corpus,
            folder,
            until(),
        )
        for corpus, folder in tokens
    )
    status.runs = _there(
        _looked(found, f"run {name}", RunState(name, _DAMAGED), look_at_run, root / "runs" / name)
        for name in (root / "runs").children()
    )
    status.at_work, status.broken = [*found.at_work, *_queries(root / ".spill")], found.faults
    status.flows = running_flows(place)
    return status


def running_flows(workspace: Workspace) -> list[FlowRun]:
    """Flow runs in the workspace that a Prefect server reports as running; none if no server responds.

    The server is the configured one, or that of a `numerate serve` of the workspace.
    """
    url, headers = reachable_api(workspace)
    if not url:
        return []
    asked = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "CANCELLING", "PENDING"]}}}, "limit": _RUNS}
    try:
        request = Request(
            f"{url}/flow_runs/filter", json.dumps(asked).encode(), {"Content-Type": "application/json", **headers}
        )
        with urlopen(request, timeout=_API_SECONDS) as answer:
            found: list[dict[str, Any]] = json.load(answer)
        return [
            FlowRun(run["name"], run["state_name"], run.get("start_time") or "")
            for run in found
            if belongs_to(workspace, run["tags"])
        ]
    except (URLError, OSError, ValueError, LookupError, TypeError):
        return []


def _looked(
    found: Findings, what: str, damaged: State, look: Callable[..., State | None], *arguments: Any
) -> State | None:
    """Call `look`; an unexpected error becomes a fault of this one item and does not hide others."""
    try:
        return look(found, *arguments)
    except Exception as error:
        found.fault(what, f"cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:_LONGEST]})")
        return damaged


def _there(found: Iterable[State | None]) -> list[State]:
    return [one for one in found if one is not None]


def _deadlines(datasets: int) -> Callable[[], float]:
    """Return a function that gives each dataset's deadline: the remaining time is divided evenly."""
    end, left = time.monotonic() + _SECONDS, datasets

    def next_one() -> float:
        """Deadline of the next dataset."""
        nonlocal left
        now, left = time.monotonic(), left - 1
        return now + max(0.0, end - now) / (left + 1)

    return next_one


def _queries(spill: Location) -> list[str]:
    return ["a SQL query" for name in spill.children() if (spill / name).is_held()]
