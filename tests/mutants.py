"""`make mutants`: of each module, the share of changes that tests notice or `mutants.txt` explains; 90 % at least."""

import json
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_LEAST = 0.9
# What mutmut notes of a change that no test noticed, and of one that no test reaches.
_SURVIVED = (0, 33)


def explained() -> list[tuple[str, str]]:
    """Module and changed line of the changes that no test can notice; the reason is behind them."""
    lines = Path(__file__).with_name("mutants.txt").read_text().splitlines()
    parts = [line.split(" | ") for line in lines if line and not line.startswith("#")]
    return [(module.strip(), changed.strip()) for module, changed, _ in parts]


def changed_line(name: str) -> str:
    """The line that a change puts in."""
    shown = subprocess.run([sys.executable, "-m", "mutmut", "show", name], cwd=_ROOT, capture_output=True, text=True)
    return next((line[1:].strip() for line in shown.stdout.splitlines() if line.startswith("+ ")), "")


def main() -> int:
    """Print a line for each module that was tried, and each change that is not explained; 1 below 90 %."""
    code, known = 0, explained()
    for notes in sorted((_ROOT / "mutants").rglob("*.meta")):
        module = notes.relative_to(_ROOT / "mutants").as_posix().removesuffix(".meta")
        tried = {
            name: end for name, end in json.loads(notes.read_text())["exit_code_by_key"].items() if end is not None
        }
        if not tried:
            continue
        left = {name: changed_line(name) for name, end in tried.items() if end in _SURVIVED}
        open_ones = {name: line for name, line in left.items() if (module, line) not in known}
        share = 1 - len(open_ones) / len(tried)
        code |= share < _LEAST
        killed, because = len(tried) - len(left), len(left) - len(open_ones)
        print(f"{module}: {killed} of {len(tried)} noticed, {because} explained: {share:.1%}")
        for name, line in open_ones.items():
            print(f"    {name}: {line}")
    return code


if __name__ == "__main__":
    sys.exit(main())
