"""Layout of `numerate --help`: commands in groups, each with the example from its own help text."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cyclopts import App, Group
from cyclopts.help import DefaultFormatter, HelpEntry
from cyclopts.help.specs import ColumnSpec, CommandNameRenderer

if TYPE_CHECKING:
    from rich.console import RenderableType

INTRODUCTION = """Numerate: how well can an encoder, trained on nothing but tokens, learn integer arithmetic?

Four commands to start with:

  numerate solve "12*(3+45)-7"                         answers with an encoder that comes with Numerate
  numerate solve --trace "(12-34)*-5+6"                shows each step on the way to the answer
  numerate run quick                                   generates a corpus, trains an encoder, reports: two minutes
  numerate sql "SELECT * FROM corpus_quick LIMIT 5"    queries that corpus

Then: numerate status shows the workspace, numerate doctor checks this machine, numerate --help lists all commands.
"""

MANUAL = """Learn integer arithmetic from tokens alone: corpus, tokenizer, encoder, evaluation.

All data is in a workspace, `./workspace` by default; `--workspace` names another. An interrupted command continues when
you run it again. A command whose results are up to date says so and does nothing.

Results go to standard output, as one JSON value with `--json`. Progress and errors go to standard error. Bars and
colours appear on a terminal only and respect `NO_COLOR`. Exit codes: 0 success, 1 failure, 2 invalid request, 130
interrupted.

Three commands to start with: `numerate solve --trace "12*(3+45)-7"`, `numerate run quick`, `numerate status`.
"""

_COMMAND_GROUPS = {
    "Generate, train, evaluate": ("run", "corpus", "tokenizer", "encode", "train", "evaluate", "probe"),
    "Query": ("solve", "sql", "report", "model"),
    "Serve and share": ("serve", "submit", "publish"),
    "Maintain": ("status", "doctor", "clean", "completion"),
}
_EXAMPLE = re.compile(r"^ *Example: `(.+)`$", re.MULTILINE)


def arrange(app: App) -> None:
    """Sort the commands into groups and show their examples; commands without a group come last."""
    for number, (title, verbs) in enumerate(_COMMAND_GROUPS.items()):
        group = _group(app, title, number)
        for position, verb in enumerate(verbs):
            if verb in app:
                app[verb].group, app[verb].sort_key = group, position
    app.group_commands = _group(app, "More", len(_COMMAND_GROUPS))
    for subcommand in {words[0] for words, _ in verbs_of(app) if len(words) > 1}:
        app[subcommand].group_commands = _group(app[subcommand], "Commands", 0)


def verbs_of(app: App, parents: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], App]]:
    """Every command that does something, with the words that call it."""
    for name in app:
        if name.startswith("-") or not app[name].show:
            continue
        if app[name].default_command:
            yield (*parents, name), app[name]
        else:
            yield from verbs_of(app[name], (*parents, name))


def example_of(app: App) -> str:
    """The example in a command's help text, or in that of its first subcommand; empty if there is none."""
    if match := _EXAMPLE.search(app.help):
        return match[1]
    return next((example for _, subcommand in verbs_of(app) if (example := example_of(subcommand))), "")


def _group(app: App, title: str, number: int) -> Group:
    columns = (
        ColumnSpec(renderer=CommandNameRenderer(), style="cyclopts.name", no_wrap=True),
        ColumnSpec(renderer=lambda entry: _description(app, entry), overflow="fold"),
    )
    return Group(title, sort_key=number, help_formatter=DefaultFormatter(column_specs=columns))


def _description(app: App, entry: HelpEntry) -> "RenderableType":
    """The description of a command, and its example on a separate line."""
    from rich.console import Group as Lines
    from rich.text import Text

    name = entry.names[0] if entry.names else ""
    example = "" if name.startswith("-") or name not in app else example_of(app[name])
    return Lines(entry.description or "", *([Text(example, style="dim")] if example else []))
