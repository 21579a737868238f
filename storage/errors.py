"""The two ways in which a command ends badly, so that every face can turn them into one line.

`UserError` is a mistake in what was asked (exit code 2); `RunFailure` is a correct request
that could not be carried out (exit code 1). Neither is ever shown with a traceback.
"""


class UserError(ValueError):
    """A request that can't be carried out as given; the text names the value and the remedy."""

    exit_code = 2


class RunFailure(RuntimeError):
    """A correct request that failed (a truncated shard, a full disk); the text names the remedy."""

    exit_code = 1


class TransientFailure(RunFailure):
    """A failure that may pass by itself, such as a lost worker: a flow tries again."""
