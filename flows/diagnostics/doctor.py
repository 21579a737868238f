"""Checks whether a machine can run Numerate, and suggests remedies for what is wrong.

Checks only create temporary files. Engines are imported in separate processes, so that a hang or a crash becomes a
finding too.
"""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from flows.diagnostics.engine_checks import DEEP_CHECKS, ENGINE_CHECKS
from flows.diagnostics.findings import Check, Finding
from flows.diagnostics.machine_checks import MACHINE_CHECKS
from storage.errors import RunFailure
from storage.workspace import Workspace

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def findings(workspace: Workspace, *, deep: bool = False) -> Iterator[Finding]:
    """Yield the findings in the order of the checks; `deep` also starts Ray and a Prefect server."""
    checks = [*MACHINE_CHECKS, *ENGINE_CHECKS, *(DEEP_CHECKS if deep else ())]
    with ThreadPoolExecutor(4) as pool:
        yield from pool.map(lambda check: _result(check, workspace), checks)


def print_findings(results: Iterator[Finding], *, as_json: bool) -> None:
    """Print the findings; raises `RunFailure` if one of them is a problem."""
    if as_json:
        shown = list(results)
        print(json.dumps({"findings": [asdict(finding) for finding in shown]}, indent=2))
    else:
        shown = list(map(_printed, results))
    problems = sum(finding.level == "problem" for finding in shown)
    if problems:
        raise RunFailure(f"{problems} problem{'s' if problems > 1 else ''} on this machine: apply the remedies above")


def _result(check: Check, workspace: Workspace) -> Finding:
    try:
        return check(workspace)
    except Exception as error:
        name = check.__name__.removeprefix("check_").replace("_", " ")
        return Finding(name, "warning", f"check failed ({type(error).__name__}: {' '.join(str(error).split())})")


def _printed(finding: Finding) -> Finding:
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    level = Text(f"{finding.level:8}", style=_STYLES[finding.level])
    console.print(level.append(f"{finding.name:12} {finding.text}", style="default"))
    if finding.remedy:
        console.print(f"{'':21}{finding.remedy}", style="bold")
    sys.stdout.flush()
    return finding
