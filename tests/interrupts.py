"""Processes that hear a Ctrl-C, as on a person's terminal, wherever the tests run."""

import signal


def hear_interrupts() -> None:
    """To be called in a new process: a background job of a shell ignores SIGINT, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
