"""Where the command `numerate` begins: signals are heard before its parts are imported."""

import logging
import sys

from flows.cli import interruption
from flows.cli.terminal import PrintableFormatter, open_missing_streams


def main() -> None:
    """Entry point; never returns."""
    interruption.end_at_once()
    open_missing_streams()
    # What writes a warning where nobody set logging up.
    if logging.lastResort:
        logging.lastResort.setFormatter(PrintableFormatter())
    from flows.cli.app import run

    sys.exit(interruption.guarded(lambda: run(sys.argv[1:])))


if __name__ == "__main__":
    main()
