"""Builds the commands that `status` suggests as repairs, ready to be copied.

A command is exact: the command line parses it into the same request.
"""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from flows.common.parameters import (
    WORKSPACE,
    EncodeRequest,
    GenerateRequest,
    InWorkspace,
    TokenizerRequest,
    TrainRequest,
    VerifyRequest,
)
from flows.common.presets import CORPUS_PRESETS, PRESETS
from model.config.training import TrainingSpec
from model.runs.run_config import RunConfig
from pipelines.spec.corpus import CorpusSpec, TokenizerKind
from storage.places.place import Location

_DEFAULT = "notebook"
_TRAININGS = {name: preset.train_request() for name, preset in PRESETS.items()}


@dataclass(frozen=True)
class Remedies:
    """Commands for a workspace, a path or URI as the user gave it; a method is named after what its command does."""

    workspace: str

    def generate(self, spec: CorpusSpec | None) -> str:
        """Empty if there is no spec or its mixture needs a file."""
        if spec is None:
            return ""
        request = GenerateRequest(workspace=self.workspace, **spec.model_dump())
        return _command("corpus generate", request, CORPUS_PRESETS)

    def generate_from(self, file: str) -> str:
        return _joined(["numerate", "corpus", "generate", file], self.workspace)

    def repair(self, corpus: str) -> str:
        return VerifyRequest(corpus=corpus, repair=True, workspace=self.workspace).command

    def migrate(self, corpus: str) -> str:
        return _joined(["numerate", "corpus", "migrate", corpus], self.workspace)

    def tokenizer(self, name: str, corpus: str, kind: str) -> str:
        """Empty if the kind is unknown."""
        if not corpus or kind not in get_args(TokenizerKind):
            return ""
        request = TokenizerRequest(corpus=corpus, kind=kind, workspace=self.workspace)
        if request.tokenizer_name != name:
            request = request.model_copy(update={"tokenizer": name})
        return _command("tokenizer train", request, {_DEFAULT: TokenizerRequest()})

    def encode(self, corpus: str, tokenizer: str) -> str:
        return _command("encode", EncodeRequest(**self._of_corpus(corpus, tokenizer)), {_DEFAULT: EncodeRequest()})

    def train(self, config: RunConfig) -> str:
        """Command that resumes a run; empty if its curriculum needs a file."""
        request = TrainRequest(
            **self._of_corpus(config.corpus, config.tokenizer),
            name=config.name,
            **config.training.model_dump(include=set(TrainingSpec.model_fields)),
        )
        return _command("train", request, _TRAININGS)

    def _of_corpus(self, corpus: str, tokenizer: str) -> dict[str, Any]:
        tokenizer = "" if tokenizer == f"{corpus}-digit" else tokenizer
        return {"corpus": corpus, "tokenizer": tokenizer, "workspace": self.workspace}


def removal(folder: Location, again: str) -> str:
    """Command that deletes a local folder and then runs `again`; empty for remote folders or no `again`."""
    return f"rm -r {shlex.quote(str(folder))} && {again}" if again and not folder.remote else ""


def _joined(words: list[str], workspace: str) -> str:
    return shlex.join([*words, *(("--workspace", workspace) if workspace != WORKSPACE else ())])


def _command(verb: str, request: InWorkspace, presets: Mapping[str, InWorkspace]) -> str:
    """The shortest command for `request`; empty if options on top of a preset cannot express it."""
    commands = list[list[str]]()
    for name, preset in presets.items():
        options = list(_options(request.model_dump(exclude={"workspace"}), preset.model_dump()))
        if None not in options:
            commands.append(["numerate", *verb.split(), *([name] if name != _DEFAULT else []), *filter(None, options)])
    shortest: list[str] = min(commands, key=len, default=[])
    return _joined(shortest, request.workspace) if shortest else ""


def _options(wanted: dict[str, Any], given: dict[str, Any], prefix: str = "--") -> Iterator[str | None]:
    """Yield the options that change the values `given` to `wanted`; None for a value that options cannot express."""
    for name, value in wanted.items():
        option = prefix + name.replace("_", "-")
        if value == given[name]:
            continue
        if isinstance(value, dict):
            yield from _options(value, given[name], f"{option}.")
        elif isinstance(value, bool):
            yield option if value else f"{prefix}no-{name.replace('_', '-')}"
        elif isinstance(value, tuple | list):
            # Options cannot express an empty list or a list of tables.
            is_plain = value and all(isinstance(part, str | int | float) for part in value)
            yield from (word for part in value for word in (option, str(part))) if is_plain else (None,)
        else:
            # The command line treats an empty word as not given.
            yield from (option, str(value)) if value != "" else (None,)
