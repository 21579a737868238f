"""Checks whether a machine can run Numerate, and suggests remedies for what is wrong.

Checks only create temporary files. Engines are imported in separate processes, so that a hang or a crash becomes a
finding too.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from flows.common.progress import counted
from flows.diagnostics.engine_checks import DEEP_CHECKS, ENGINE_CHECKS
from flows.diagnostics.machine_checks import MACHINE_CHECKS, Check, Finding
from storage.errors import RunFailure
from storage.workspace import Workspace

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def findings(workspace: Workspace, *, deep: bool = False) -> Iterator[tuple[str, Finding]]:
    """Yield names and findings in the order of the checks; `deep` also starts Ray and a Prefect server."""
    checks = [*MACHINE_CHECKS, *ENGINE_CHECKS, *(DEEP_CHECKS if deep else ())]
    names = [check.__name__.removeprefix("check_").replace("_", " ") for check in checks]
    with ThreadPoolExecutor(4) as pool:
        yield from zip(names, pool.map(lambda check: _result(check, workspace), checks), strict=True)


def print_findings(results: Iterable[tuple[str, Finding]], *, as_json: bool) -> None:
    """Print the findings; raises `RunFailure` if one of them is a problem."""
    printed = []
    for name, finding in results:
        printed.append({"name": name, **asdict(finding)})
        if not as_json:
            _print(name, finding)
    if as_json:
        print(json.dumps({"findings": printed}, indent=2))
    problems = sum(finding["level"] == "problem" for finding in printed)
    if problems:
        raise RunFailure(f"{counted(problems, 'problem')} on this machine: apply the remedies above")


def _result(check: Check, workspace: Workspace) -> Finding:
    try:
        return check(workspace)
    except Exception as error:
        return Finding("warning", f"check failed ({type(error).__name__}: {' '.join(str(error).split())})")


def _print(name: str, finding: Finding) -> None:
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    level = Text(f"{finding.level:8}", style=_STYLES[finding.level])
    console.print(level.append(f"{name:12} {finding.text}", style="default"))
    if finding.remedy:
        console.print(f"{'':21}{finding.remedy}", style="bold")
    sys.stdout.flush()
