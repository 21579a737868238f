"""Where the command `numerate` begins: an interruption while its parts are still being imported is one line, too."""

import sys

_INTERRUPTED = 130


def main() -> None:
    """Entry point; never returns."""
    try:
        from flows.command import main as command
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    command()


if __name__ == "__main__":
    main()
