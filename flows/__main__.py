"""Entry point of the command `numerate`. Installs signal handlers before it imports the rest of the package."""

import logging
import sys
import warnings

from flows.cli import interruption
from flows.cli.terminal import PrintableFormatter, open_missing_streams


def main() -> None:
    """Run the command; never returns."""
    interruption.end_at_once()
    open_missing_streams()
    # Formats warnings of libraries if logging is not configured.
    if logging.lastResort:
        logging.lastResort.setFormatter(PrintableFormatter())
    # A signal during the imports can interrupt the start of a Cython module, which warns and works nevertheless.
    warnings.filterwarnings("ignore", "Cython module failed to patch")
    from flows.cli.app import run

    sys.exit(interruption.guarded(lambda: run(sys.argv[1:])))


if __name__ == "__main__":
    main()
