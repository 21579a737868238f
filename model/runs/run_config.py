"""The configuration of a training run, and the checks that a run folder belongs to it."""

import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from model.config.encoder import Extent
from model.config.training import TrainingSpec
from model.tokenizer import MOST_TOKENS, Tokenizer, TokenLayout
from model.training.batches import layouts_of
from model.training.rare_problems import RARE, rare_problems
from storage.datasets.manifest import Dataset
from storage.errors import RunFailure, UserError
from storage.places.place import Location

# Version of the meaning of a checkpoint's weights. 2: states are normalised between the runs of the block.
MODEL_VERSION = 2
# Version of a training step's selection of rows, masks and random numbers.
STEP_VERSION = 1


class RunConfig(BaseModel, frozen=True, extra="forbid"):
    """All settings that determine a run's weights, and the identities of its inputs."""

    model_version: Literal[2]
    step_version: int = Field(
        1, description="Version of the choice of rows and masks; a run resumes only with the same version."
    )
    name: str
    corpus: str = Field(description="Name of the corpus.")
    tokenizer: str = Field(description="Name of the tokenizer.")
    corpus_spec: dict[str, Any]
    corpus_identity: str
    tokens_identity: str
    tokenizer_identity: str
    group: int = Field(
        1, ge=0, description="Maximum digits per token, from the right of a number; 0 for learned pieces."
    )
    layouts: tuple[TokenLayout, ...] = Field(min_length=1)
    training: TrainingSpec
    precision: Literal["", "bfloat16", "float32"] = Field(
        "", description="Arithmetic precision of the training steps, with auto resolved; empty before the first step."
    )

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, values: Any) -> Any:
        """Runs and checkpoints without the field `oversample` were trained without oversampling."""
        training = values.get("training") if isinstance(values, dict) else None
        if isinstance(training, dict) and "oversample" not in training:
            return {**values, "training": {**training, "oversample": ""}}
        return values

    @model_validator(mode="after")
    def _of_a_corpus(self) -> "RunConfig":
        try:
            _ = (self.operators, self.signed_operands, self.extent, self.operand_counts)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("corpus_spec is not a corpus specification") from error
        return self

    def decides(self) -> dict[str, Any]:
        """The values that must be equal to resume a run; the number of workers may change."""
        return {**self.model_dump(mode="json", exclude={"precision"}), "training": self.training.identity()}

    @property
    def parts(self) -> list[dict[str, Any]]:
        """The problem families of the run's corpus, with their parameters."""
        return list(self.corpus_spec.get("mixture") or [self.corpus_spec])

    @property
    def oversampled(self) -> str:
        """SQL predicate of the oversampled problems; empty if there are none."""
        name = self.training.oversample
        return rare_problems(self.parts) if name == RARE else name

    @property
    def operators(self) -> tuple[str, ...]:
        """Operators in the run's corpus."""
        found = {operator for part in self.parts for operator in part["operators"]}
        return tuple(operator for operator in "+-*" if operator in found)

    @property
    def signed_operands(self) -> bool:
        """Whether the run's corpus has operands or brackets with a minus sign."""
        return any(
            part["family"] in ("expression", "marks", "steps") and "-" in part["operators"] for part in self.parts
        )

    @property
    def extent(self) -> Extent:
        """Size of the largest problems in the run's corpus."""
        numbers = [len(str(part["high"])) if part["family"] == "grid" else part["digits"] for part in self.parts]
        return Extent(
            problem=max(layout.problem for layout in self.layouts),
            answer=max(layout.answer for layout in self.layouts),
            digits=max(numbers),
            operands=max(part.get("terms", 2) for part in self.parts),
            depth=max(part["depth"] if part["family"] in ("expression", "marks") else 0 for part in self.parts),
        )

    @property
    def operand_counts(self) -> range:
        """Possible numbers of operands in the run's corpus."""
        least = min(part["terms"] if part["family"] == "grid" else part.get("min_terms", 2) for part in self.parts)
        return range(least, self.extent.operands + 1)

    def layout_for(self, extent: Extent) -> TokenLayout:
        """The narrowest layout of the run that fits a problem, or a new layout if none fits.

        Raises `UserError` if the problem is larger than those of the training. Encoders for any length accept more
        digits, but not more operands or deeper brackets.
        """
        encoder, trained, counts = self.training.encoder, self.extent, self.operand_counts
        reason = encoder.refusal(extent, self.group)
        if extent.digits > trained.digits and not encoder.any_length:
            reason = f"it has {extent.digits} digits, but the run was trained on up to {trained.digits}"
        if extent.depth > trained.depth:
            reason = f"it has brackets nested {extent.depth} deep, but the run was trained on up to {trained.depth}"
        if extent.operands not in counts:
            reason = (
                f"it has {extent.operands} operands, but the run was trained on {_span(counts.start, counts.stop - 1)}"
            )
        if extent.problem + extent.answer > MOST_TOKENS:
            reason = (
                f"it has {extent.problem + extent.answer:,} tokens with its answer, but the maximum is {MOST_TOKENS:,}"
            )
        if reason:
            raise UserError(f"run {self.name!r} cannot answer the problem ({reason}): use another problem or run")
        for layout in self.layouts:
            if layout.problem >= extent.problem and layout.answer >= extent.answer:
                return layout
        return TokenLayout(problem=extent.problem, answer=extent.answer)

    @classmethod
    def of(
        cls, name: str, training: TrainingSpec, corpus: Dataset, tokens: Dataset, tokenizer: tuple[str, Tokenizer]
    ) -> "RunConfig":
        """The configuration of a new run; raises `UserError` if tokens, tokenizer and corpus do not match."""
        spec = tokens.manifest.spec
        if (spec["corpus"], spec["tokenizer"]) != (corpus.manifest.identity, tokenizer[1].identity):
            raise UserError(
                f"the tokens at {tokens.location} do not match corpus {corpus.manifest.name!r} and tokenizer "
                f"{tokenizer[0]!r}: delete that folder and run 'numerate encode' again"
            )
        return cls(
            model_version=MODEL_VERSION,
            step_version=STEP_VERSION,
            name=name,
            corpus=corpus.manifest.name,
            tokenizer=tokenizer[0],
            corpus_spec=corpus.manifest.spec,
            corpus_identity=corpus.manifest.identity,
            tokens_identity=tokens.manifest.identity,
            tokenizer_identity=tokenizer[1].identity,
            group=tokenizer[1].group,
            layouts=layouts_of(tokens),
            training=training,
        )


def claim_run(folder: Location, config: RunConfig, tokenizer: Tokenizer) -> None:
    """Write a new run's configuration and tokenizer, or check that the existing run has the same configuration.

    Raises `UserError` if the run name is in use with another configuration.
    """
    check_claim(folder, config)
    if not (folder / "run.json").exists():
        (folder / "tokenizer.model").write(tokenizer.model)
        (folder / "run.json").write(config.model_dump_json(indent=2).encode() + b"\n")


def check_claim(folder: Location, config: RunConfig) -> None:
    """Raise `UserError` if the run name is in use with another configuration."""
    if (folder / "run.json").exists():
        refuse_other(folder, load_run(folder).decides(), config.decides())


def refuse_other(folder: Location, found: dict[str, Any], requested: dict[str, Any]) -> None:
    """Raise `UserError`, naming the differences, if an existing run has other values than the requested ones."""
    if differing := _differences(found, requested):
        raise UserError(
            f"run {folder.name!r} exists with another configuration ({', '.join(differing)}): "
            f"choose another name with --name, or delete {folder}"
        )


def refuse_unlike(configs: Sequence[RunConfig]) -> None:
    """Raise `UserError`, naming the differences, if runs are not seeds of one training."""
    values = [{**config.decides(), "name": "", "training": config.training.identity()} for config in configs]
    for each in values:
        each["training"].pop("seed", None)
    for config, other in zip(configs[1:], values[1:], strict=True):
        if differing := _differences(values[0], other):
            names = ", ".join(text.partition(":")[0] for text in differing)
            raise UserError(
                f"runs {configs[0].name!r} and {config.name!r} differ in more than their seed ({names}): "
                "compare runs of one training, such as those of 'numerate train --seeds'"
            )


def note_precision(folder: Location, precision: Literal["bfloat16", "float32"]) -> None:
    """Store the precision of a run if none is stored yet; it then stays the same on every machine."""
    config = load_run(folder)
    if not config.precision:
        noted = config.model_copy(update={"precision": precision})
        (folder / "run.json").write(noted.model_dump_json(indent=2).encode() + b"\n")


def load_run(folder: Location) -> RunConfig:
    """The configuration of a run.

    Raises `UserError` if there is no run or it has another model version, and `RunFailure` if `run.json` is damaged.
    """
    if not (folder / "run.json").exists():
        raise UserError(
            f"run {folder.name!r} does not exist ({folder}): train it first, or use 'numerate run' for all stages"
        )
    version: Any = MODEL_VERSION
    try:
        values = json.loads((folder / "run.json").read())
        version = values.get("model_version", 1) if isinstance(values, dict) and values else version
        return RunConfig.model_validate(values)
    except (ValueError, RecursionError) as error:
        if version != MODEL_VERSION:
            raise UserError(
                f"run {folder.name!r} has model version {version!r}, but this release needs {MODEL_VERSION}: train it "
                "again with another name, or use the release that trained it"
            ) from error
        raise RunFailure(f"{folder / 'run.json'} is damaged: delete {folder} and train again") from error


def run_tokenizer(folder: Location, config: RunConfig) -> Tokenizer:
    """The run's copy of its tokenizer; raises `RunFailure` if it differs from the tokenizer of the training."""
    tokenizer = Tokenizer((folder / "tokenizer.model").read())
    if (tokenizer.identity, _group_of(tokenizer)) != (config.tokenizer_identity, config.group):
        raise RunFailure(
            f"{folder / 'tokenizer.model'} is not the tokenizer of this run: delete {folder} and train again"
        )
    return tokenizer


def _group_of(tokenizer: Tokenizer) -> int:
    """Digits per piece of a tokenizer; -1 for a model that SentencePiece cannot read."""
    try:
        return tokenizer.group
    except RuntimeError:
        return -1


def _span(least: int, most: int) -> str:
    return str(least) if least == most else f"{least} to {most}"


def _differences(found: dict[str, Any], requested: dict[str, Any], prefix: str = "") -> list[str]:
    names = []
    for key in sorted(found.keys() | requested.keys()):
        one, other = found.get(key), requested.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            names += _differences(one, other, f"{prefix}{key}.")
        elif one != other:
            names.append(f"{prefix}{key}: {one} in the run, {other} requested")
    return names
