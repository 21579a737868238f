"""`python -m tests.same_results COMMIT [PRESET...]` checks that this tree gives exactly the results of COMMIT.

It is a check for a rebuild that must not change results. Both trees run the same commands: for every preset a corpus of
10,000 rows, its tokenizer and its token rows, and 10,000 problems for each encoder that comes with Numerate. The tool
compares the content hashes in the manifests and the answers. It takes some minutes, and exits with 1 on a difference.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_ROWS, _PROBLEMS = 10_000, 10_000


def results(tree: Path, workspace: Path, presets: list[str]) -> dict[str, str]:
    """Content hashes of corpora and token rows, and the answers, by name; `tree` is a checkout."""
    contents = {}
    for preset in presets:
        name = ["--name", preset, "--workspace", str(workspace)]
        _numerate(tree, ["corpus", "generate", preset, "--rows", str(_ROWS), *name])
        for command in (["tokenizer", "train"], ["encode"]):
            _numerate(tree, [*command, "--corpus", preset, "--workspace", str(workspace)])
        folder = workspace / "corpora" / preset
        (tokens,) = (folder / "tokens").glob("*/manifest.json")
        for what, manifest in (("rows", folder / "manifest.json"), ("tokens", tokens)):
            contents[f"{what} of {preset}"] = json.loads(manifest.read_text())["contents"]
    for run, problems in problems_of().items():
        answers = _numerate(tree, ["solve", "--run", run, "--workspace", str(workspace)], "\n".join(problems))
        assert len(answers.splitlines()) == _PROBLEMS
        contents[f"answers of {run}"] = answers
    return contents


def problems_of() -> dict[str, list[str]]:
    """Problems for each encoder that comes with Numerate, from a fixed seed."""
    draw = random.Random(0)

    def number(digits: int) -> int:
        """A number of one to `digits` digits."""
        return draw.randrange(10 ** draw.randint(1, digits))

    return {
        "notebook": ["+".join(str(draw.randrange(100)) for _ in range(4)) for _ in range(_PROBLEMS)],
        "addition": [f"{number(20)}+{number(20)}" for _ in range(_PROBLEMS)],
        "signed": [f"{number(12)}{draw.choice('+-')}{number(12)}" for _ in range(_PROBLEMS)],
    }


def _numerate(tree: Path, arguments: list[str], text: str = "") -> str:
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "flows", *arguments]
    result = subprocess.run(command, cwd=tree, env=environment, input=text, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{tree}: numerate {' '.join(arguments)} failed: {result.stderr.strip()}")
    return result.stdout


def main() -> int:
    """Compare the trees and print one line for each result."""
    if len(sys.argv) < 2:
        print("usage: python -m tests.same_results COMMIT [PRESET...]", file=sys.stderr)
        return 2
    from pipelines.spec.presets import CORPORA

    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder, "tree")
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", other, sys.argv[1]], cwd=_ROOT, check=True)
        try:
            with ThreadPoolExecutor(2) as pool:
                trees = [(_ROOT, "here"), (other, "there")]
                presets = sys.argv[2:] or list(CORPORA)
                here, there = pool.map(lambda tree: results(tree[0], Path(folder, tree[1]), presets), trees)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", other], cwd=_ROOT, check=True)
    different = [name for name in here if here[name] != there[name]]
    for name in here:
        print(f"{name}: {'DIFFERENT' if name in different else 'the same'}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
