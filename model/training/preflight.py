"""What is settled before a training begins: whether all parts fit each other, and whose the run's folder is."""

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
    """Claim the folders of one run, or of one for each of several seeds, on a corpus as a tokenizer encoded it.

    All are checked before one is claimed. Raises `UserError` or `RunFailure` for anything that doesn't fit,
    before any work.
    """
    source = load(workspace.corpus(corpus), f"corpus {corpus!r}")
    pieces, _ = load_tokenizer(workspace.tokenizer(tokenizer))
    tokens = load(workspace.tokens(corpus, tokenizer), f"corpus {corpus!r} encoded by {tokenizer!r}")
    configs = [RunConfig.of(run, own, source, tokens, (tokenizer, pieces)) for run, own in seed_runs(name, spec, seeds)]
    for config in configs:
        _check_encoder(config)
        _check_objective(config, pieces)
        check_claim(workspace.run(config.name), config)
    left_out = _check_data(tokens, configs[0])
    for config in configs:
        claim_run(workspace.run(config.name), config, pieces)
    return [TrainingJob(workspace.run(config.name), tokens.location, config, left_out=left_out) for config in configs]


def found_result(job: TrainingJob) -> TrainingResult | None:
    """The result of a run that has all its steps already; None where some are left, or are lost with a damaged file."""
    last, _ = Checkpoints(job.run / "checkpoints").last_whole()
    if last is None or last.step < job.config.training.steps:
        return None
    return TrainingResult(last.step, True, last.exact_match)


def _check_data(tokens: Dataset, config: RunConfig) -> tuple[str, ...]:
    """Which rows are in no batch, in words; every shard is read and hashed once.

    Raises, before any work, what training on these tokens would raise.
    """
    spec = config.training
    for split in ("train", "validation"):
        for shard in tokens.of_split(split):
            tokens.verified(shard)
    batches = [stage.batches for stage in stages_of(tokens, spec, config.oversampled)]
    batches.append(Batches.of(tokens, "validation", LANES, spec.seed, spec.where))
    return tuple(dict.fromkeys(each.left_out for each in batches if each.left_out))


def _check_encoder(config: RunConfig) -> None:
    """Raise `UserError` where the encoder's positions don't reach as far as the corpus's problems, or need digits."""
    config.training.encoder.check_pieces(config.group)
    if reason := config.training.encoder.refusal(config.extent, config.group):
        raise UserError(f"{reason} for this corpus: raise it")


def _sums_alone(config: RunConfig) -> bool:
    return config.operators == ("+",) and not config.extent.depth


def _check_objective(config: RunConfig, tokenizer: Tokenizer) -> None:
    """Raise `UserError` where tokenizer, corpus or machine don't have what a training's objective needs."""
    spec = config.training
    if spec.objective != "answer" or spec.running_sum or spec.encoder.carry_loops or spec.encoder.unit != "none":
        tokenizer.character_ids()
    if spec.running_sum and "*" not in config.operators:
        raise UserError(
            f"running_sum is {spec.running_sum:g}, but corpus {config.corpus!r} has no products: set it to 0"
        )
    if spec.encoder.carry_loops and (spec.objective != "answer" or not _sums_alone(config)):
        raise UserError(
            f"encoder.carry_loops is {spec.encoder.carry_loops}, but only of sums without brackets, asked for their "
            "answers, is it known when a carry arrives: set it to 0, or take objective answer and operator + alone"
        )
    compiles(spec, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
