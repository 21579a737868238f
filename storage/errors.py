"""The exceptions that end a command, so that every interface can show them as one line.

`UserError` is a mistake in the request (exit code 2). `RunFailure` is a valid request that failed (exit code 1).
Neither is shown with a traceback.
"""


class UserError(ValueError):
    """An invalid request; the text names the value and the remedy."""

    exit_code = 2


class RunFailure(RuntimeError):
    """A valid request that failed (a truncated shard, a full disk); the text names the remedy."""

    exit_code = 1


class TransientFailure(RunFailure):
    """A failure that may be temporary, such as a lost worker; flows retry it."""


class QueryAbandoned(KeyboardInterrupt):
    """A SQL query ignored an interrupt and still runs, so the process must exit without waiting for it."""
