"""The verbs that look rather than make: the workspace's status, the machine's, and completion for the shell."""

from cyclopts import App

from flows.requests import WORKSPACE
from flows.verbs import Json, Place


def status(*, workspace: Place = WORKSPACE, as_json: Json = False) -> None:
    """Show the workspace at a glance: what lies in it, what runs, what is broken and the command that mends it.

    It takes a few seconds at most, compares the sizes of shards and opens none of them. As it is an account and no
    test the exit code is 0 even where something is broken; `broken` in its JSON says so, and 'numerate corpus verify'
    fails.

    Example: `numerate status`
    """
    from flows.status import status_of

    found = status_of(workspace)
    if as_json:
        print(found.json())
        return
    from flows.status_text import status_text

    status_text(found)


def register(app: App) -> None:
    """Add the verbs to the command."""
    app.command(status)
