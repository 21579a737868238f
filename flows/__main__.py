"""Where the command `numerate` begins: signals are heard before its parts are imported."""

import sys

from flows import interruption
from flows.cli.terminal import open_missing_streams


def main() -> None:
    """Entry point; never returns."""
    interruption.end_at_once()
    open_missing_streams()
    from flows.command import run

    sys.exit(interruption.guarded(lambda: run(sys.argv[1:])))


if __name__ == "__main__":
    main()
