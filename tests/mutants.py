"""`make mutants`: reports the share of each module's mutants that are killed or explained, and fails below 90 %."""

import json
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_MINIMUM = 0.9
# mutmut's exit codes of a mutant that no test detects, and of a mutant that no test reaches.
_SURVIVED = (0, 33)


def explained() -> list[tuple[str, str]]:
    """Module and changed line of each mutant in `mutants.txt`."""
    lines = Path(__file__).with_name("mutants.txt").read_text().splitlines()
    parts = [line.split(" | ") for line in lines if line and not line.startswith("#")]
    return [(module.strip(), changed.strip()) for module, changed, _ in parts]


def changed_line(name: str) -> str:
    """The line of source that a mutant inserts."""
    shown = subprocess.run([sys.executable, "-m", "mutmut", "show", name], cwd=_ROOT, capture_output=True, text=True)
    return next((line[1:].strip() for line in shown.stdout.splitlines() if line.startswith("+ ")), "")


def main() -> int:
    """Print a line for each tested module and for each unexplained survivor; returns 1 below the minimum."""
    code, known = 0, explained()
    for file in sorted((_ROOT / "mutants").rglob("*.meta")):
        module = file.relative_to(_ROOT / "mutants").as_posix().removesuffix(".meta")
        exit_codes = json.loads(file.read_text())["exit_code_by_key"]
        tested = {name: exit_code for name, exit_code in exit_codes.items() if exit_code is not None}
        if not tested:
            continue
        survivors = {name: changed_line(name) for name, exit_code in tested.items() if exit_code in _SURVIVED}
        unexplained = {name: line for name, line in survivors.items() if (module, line) not in known}
        share = 1 - len(unexplained) / len(tested)
        code |= share < _MINIMUM
        killed, excused = len(tested) - len(survivors), len(survivors) - len(unexplained)
        print(f"{module}: {killed} of {len(tested)} killed, {excused} explained: {share:.1%}")
        for name, line in unexplained.items():
            print(f"    {name}: {line}")
    return code


if __name__ == "__main__":
    sys.exit(main())
