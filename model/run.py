"""A training run's folder: what it was asked for, its tokenizer, its metrics and its checkpoints."""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.config import TrainingSpec
from model.tokenizer import Tokenizer, TokenLayout
from storage.errors import RunFailure, UserError
from storage.location import Location
from storage.manifest import Dataset


class RunConfig(BaseModel):
    """Everything that decides a run's weights, and the identities of what it was fed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    corpus: str = Field(description="Name of the corpus.")
    tokenizer: str = Field(description="Name of the tokenizer.")
    corpus_spec: dict[str, Any]
    corpus_identity: str
    tokens_identity: str
    tokenizer_identity: str
    layout: TokenLayout
    training: TrainingSpec

    def decides(self) -> dict[str, Any]:
        """What must be the same for a run to go on; the number of workers may change."""
        return {**self.model_dump(mode="json"), "training": self.training.identity()}

    @classmethod
    def of(
        cls, name: str, training: TrainingSpec, corpus: Dataset, tokens: Dataset, tokenizer: tuple[str, Tokenizer]
    ) -> "RunConfig":
        """The configuration of a new run; raises `UserError` if tokens, tokenizer and corpus don't belong together."""
        spec = tokens.manifest.spec
        if (spec["corpus"], spec["tokenizer"]) != (corpus.manifest.identity, tokenizer[1].identity):
            raise UserError(
                f"the tokens at {tokens.location} were made from another corpus or by another tokenizer than "
                f"{tokenizer[0]!r}: run 'numerate encode' with a tokenizer of this corpus"
            )
        return cls(
            name=name,
            corpus=corpus.manifest.name,
            tokenizer=tokenizer[0],
            corpus_spec=corpus.manifest.spec,
            corpus_identity=corpus.manifest.identity,
            tokens_identity=tokens.manifest.identity,
            tokenizer_identity=tokenizer[1].identity,
            layout=layout_of(tokens),
            training=training,
        )


def layout_of(tokens: Dataset) -> TokenLayout:
    """The one layout of a corpus's token rows; raises `UserError` where there are several."""
    layouts = tokens.manifest.spec["layouts"]
    if len(layouts) > 1:
        raise UserError(
            f"corpus {tokens.manifest.name!r} has rows of several widths ({', '.join(layouts)}), and training takes "
            "one: generate a corpus of one family with shorter problems"
        )
    (layout,) = layouts.values()
    return TokenLayout(**layout)


def claim_run(folder: Location, config: RunConfig, tokenizer: Tokenizer) -> None:
    """Write a new run's configuration, or check that the run that is there has the same one.

    Raises `UserError` for a run name that is in use with another configuration.
    """
    if not (folder / "run.json").exists():
        (folder / "tokenizer.model").write(tokenizer.model)
        (folder / "run.json").write(config.model_dump_json(indent=2).encode() + b"\n")
        return
    found = load_run(folder)
    refuse_other(folder, found.decides(), config.decides())


def refuse_other(folder: Location, found: dict[str, Any], asked: dict[str, Any]) -> None:
    """Raise `UserError`, naming the differences, if a run was made from other values than are asked for now."""
    if differing := _differences(found, asked):
        raise UserError(
            f"run {folder.name!r} exists with another configuration ({', '.join(differing)}): "
            f"choose another name with --name, or delete {folder}"
        )


def load_run(folder: Location) -> RunConfig:
    """The configuration of a run; raises `UserError` where there is none."""
    if not (folder / "run.json").exists():
        raise UserError(f"run {folder.name!r} is not there ({folder}): train it first, 'numerate run' does all of it")
    try:
        return RunConfig.model_validate(json.loads((folder / "run.json").read()))
    except (ValidationError, json.JSONDecodeError) as error:
        raise RunFailure(f"{folder / 'run.json'} is damaged: delete {folder} and train again") from error


def run_tokenizer(folder: Location, config: RunConfig) -> Tokenizer:
    """The run's own copy of its tokenizer; raises `RunFailure` if it isn't the one it was trained with."""
    tokenizer = Tokenizer((folder / "tokenizer.model").read())
    if tokenizer.identity != config.tokenizer_identity:
        raise RunFailure(
            f"{folder / 'tokenizer.model'} is not the tokenizer of this run: delete {folder} and train again"
        )
    return tokenizer


def _differences(found: dict[str, Any], asked: dict[str, Any], prefix: str = "") -> list[str]:
    names = []
    for key in sorted(found.keys() | asked.keys()):
        one, other = found.get(key), asked.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            names += _differences(one, other, f"{prefix}{key}.")
        elif one != other:
            names.append(f"{prefix}{key}: {one} there, {other} asked")
    return names
