"""Checks before a training starts: corpus, tokenizer and configuration match, and the run's folder is free."""

import torch

from model.config.training import TrainingSpec, seed_runs
from model.network.compilation import compiles
from model.runs.checkpoints import Checkpoints
from model.runs.run_config import RunConfig, check_claim, claim_run
from model.tokenizer import Tokenizer, load_tokenizer
from model.training.batches import Batches, stages_of
from model.training.job import TrainingJob, TrainingResult
from storage.datasets.manifest import Dataset, load
from storage.errors import UserError
from storage.reading.lanes import LANES
from storage.workspace import Workspace


def prepare(
    workspace: Workspace, name: str, corpus: str, tokenizer: str, spec: TrainingSpec, seeds: int = 1
) -> list[TrainingJob]:
    """Check and claim one run folder per seed, for a training on a corpus encoded with a tokenizer.

    All runs are checked before the first is claimed. Raises `UserError` or `RunFailure` for anything that does not
    match, before any work starts.
    """
    source = load(workspace.corpus(corpus), f"corpus {corpus!r}")
    pieces, _ = load_tokenizer(workspace.tokenizer(tokenizer))
    tokens = load(workspace.tokens(corpus, tokenizer), f"corpus {corpus!r} encoded with {tokenizer!r}")
    configs = [RunConfig.of(run, own, source, tokens, (tokenizer, pieces)) for run, own in seed_runs(name, spec, seeds)]
    for config in configs:
        _check_encoder(config)
        _check_objective(config, pieces)
        check_claim(workspace.run(config.name), config)
    left_out = _check_data(tokens, configs[0])
    for config in configs:
        claim_run(workspace.run(config.name), config, pieces)
    return [TrainingJob(workspace.run(config.name), tokens.location, config, left_out=left_out) for config in configs]


def existing_result(job: TrainingJob) -> TrainingResult | None:
    """The result of a finished run; None if steps remain or the last intact checkpoint is older."""
    last, _ = Checkpoints(job.run / "checkpoints").newest_intact()
    if last is None or last.step < job.config.training.steps:
        return None
    return TrainingResult(last.step, True, last.exact_match)


def _check_data(tokens: Dataset, config: RunConfig) -> tuple[str, ...]:
    """Descriptions of the rows that no batch contains; reads every shard once and verifies its hash.

    Raises the errors that training on these tokens would raise.
    """
    spec = config.training
    for split in ("train", "validation"):
        for shard in tokens.of_split(split):
            tokens.verified(shard)
    batches = [stage.batches for stage in stages_of(tokens, spec, config.oversampled)]
    batches.append(Batches.of(tokens, "validation", LANES, spec.seed, spec.where))
    return tuple(dict.fromkeys(each.left_out for each in batches if each.left_out))


def _check_encoder(config: RunConfig) -> None:
    """Raise `UserError` if the encoder's positions do not cover the corpus's problems or do not fit the tokenizer."""
    config.training.encoder.check_pieces(config.group)
    if reason := config.training.encoder.refusal(config.extent, config.group):
        raise UserError(f"{reason} for this corpus: increase it")


def _check_objective(config: RunConfig, tokenizer: Tokenizer) -> None:
    """Raise `UserError` if the tokenizer, the corpus or the machine does not support the training's settings."""
    spec = config.training
    families = {part["family"] for part in config.parts}
    if spec.objective == "rewriting" and families - {"marks", "steps"}:
        raise UserError(
            f"objective is rewriting, but corpus {config.corpus!r} has problems of family "
            f"{', '.join(sorted(families - {'marks', 'steps'}))}: use a corpus of marks and steps, such as rewriting"
        )
    per_step = {part.get("digits_per_step", 1) for part in config.parts if part["family"] == "steps"}
    if spec.objective == "rewriting" and per_step - {spec.encoder.digits_per_step}:
        raise UserError(
            f"encoder.digits_per_step is {spec.encoder.digits_per_step}, but steps of corpus {config.corpus!r} consume "
            f"{' or '.join(map(str, sorted(per_step)))}: use the same number"
        )
    if spec.objective != "rewriting" and "marks" in families:
        raise UserError(
            f"corpus {config.corpus!r} has problems of family marks, whose answers are marks: set objective and "
            "encoder.kind to rewriting, or use another corpus"
        )
    if spec.objective != "answer" or spec.running_sum or spec.encoder.carry_loops or spec.encoder.unit != "none":
        tokenizer.character_ids()
    if spec.running_sum and "*" not in config.operators:
        raise UserError(
            f"running_sum is {spec.running_sum:g}, but corpus {config.corpus!r} has no products: set it to 0"
        )
    only_sums = config.operators == ("+",) and not config.extent.depth
    if spec.encoder.carry_loops and (spec.objective != "answer" or not only_sums):
        raise UserError(
            f"encoder.carry_loops is {spec.encoder.carry_loops}, but it requires objective answer and a corpus of "
            "sums without brackets: set it to 0, or use objective answer and a corpus with operator + only"
        )
    compiles(spec, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
