"""`python -m model.comparison FILE`: compares encoders, without Ray or Prefect."""

import sys

from model.comparison.compare import compare
from model.config.comparison import ComparingSpec
from model.process import Stop, run_plainly
from storage.ending import end_process
from storage.parameters import read_parameters


def main() -> int:
    """Compare encoders with the `ComparingSpec` parameters of a YAML or JSON file, or with the defaults."""
    if len(sys.argv) > 2 or sys.argv[1:] in (["--help"], ["-h"]):
        names = ", ".join(ComparingSpec.model_fields)
        print(f"usage: python -m model.comparison [FILE]  (YAML or JSON: {names})", file=sys.stderr)
        return 2

    def work(stop: Stop) -> int:
        spec = ComparingSpec.model_validate(read_parameters(sys.argv[1]) if sys.argv[1:] else {})
        folder = compare(spec, stop)
        if folder is None:
            return 130
        print((folder / "table.md").read().decode())
        return 0

    return run_plainly(work, "".join(sys.argv[1:]))


if __name__ == "__main__":
    end_process(main())
