"""Where the command `numerate` begins: signals are heard before its parts are imported."""

import sys

from flows import interruption


def main() -> None:
    """Entry point; never returns."""
    interruption.end_at_once()
    from flows.command import run

    sys.exit(interruption.guarded(lambda: run(sys.argv[1:])))


if __name__ == "__main__":
    main()
