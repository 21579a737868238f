"""Counts an encoder's errors on every problem of its corpus, including the training problems.

`python -m model.evaluation.exhaustive RUN [WORKSPACE]` evaluates shard by shard, with one process per core. It saves
the count of each shard, so the same command continues after an interruption. 10⁸ sums take about an hour on two cores.
"""

import json
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from pydantic import BaseModel

from model.evaluation.predictor import TrainedEncoder
from model.network.compilation import compile_layers, has_compiler
from model.process import Stop, run_plainly
from model.runs.pretrained import resolve_run
from model.runs.run_config import load_run
from model.tokenizer import BLANK, PAD
from model.training.batches import token_rows
from storage.datasets.manifest import ShardRecord, hash_of, load
from storage.errors import UserError
from storage.machine import cores
from storage.places.place import Location
from storage.workspace import Workspace

_ROWS = 1 << 16
# Number of rows from which compilation pays off: it takes 40 s, and then gives 1.4 times as many rows per second.
_COMPILED_ROWS = 10_000_000
# Number of wrong problems that are kept as text for each shard.
_KEPT = 100


class ShardErrors(BaseModel, frozen=True, extra="forbid"):
    """An encoder's errors on one shard."""

    path: str
    split: str
    problems: int
    wrong: int
    first: tuple[tuple[str, str], ...]
    """The first wrongly answered problems with their true answers, each with the predicted answer."""


@dataclass(frozen=True)
class _Task:
    run: Location
    tokens: Location
    shard: ShardRecord
    note: Location


def count_errors(workspace: Workspace, name: str, stop: Stop = lambda: False) -> Iterator[ShardErrors]:
    """Yields the errors of the best checkpoint of a run, or of an encoder shipped with Numerate, for each shard.

    Cached shards come first. Ends early if `stop()` returns True. Raises `UserError` if the run's corpus is not encoded
    in the workspace, and `RunFailure` for damaged shards.
    """
    run = workspace.run(resolve_run(workspace, name))
    config, model = load_run(run), TrainedEncoder.open(run)
    tokens = load(
        workspace.tokens(config.corpus, config.tokenizer), f"corpus {config.corpus!r} encoded with {config.tokenizer!r}"
    )
    if tokens.manifest.spec["tokenizer"] != config.tokenizer_identity:
        raise UserError(
            f"the tokens at {tokens.location} do not match run {name!r}: encode its corpus with its tokenizer"
        )
    folder = run / "evaluations" / f"exhaustive-{hash_of([model.checkpoint.sha256, tokens.manifest.identity])[:8]}"
    tasks = [_Task(run, tokens.location, shard, folder / f"{hash_of(shard.path)[:16]}.json") for shard in tokens.shards]
    missing = []
    for task in tasks:
        if counted := _noted(task):
            yield counted
        else:
            missing.append(task)
    with ProcessPoolExecutor(cores(), multiprocessing.get_context("spawn")) as pool:
        coming = [pool.submit(_count, task) for task in missing]
        try:
            for done in as_completed(coming):
                yield done.result()
                if stop():
                    return
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _noted(task: _Task) -> ShardErrors | None:
    """The saved result of one shard; None if it is missing or damaged."""
    try:
        return ShardErrors.model_validate(json.loads(task.note.read())) if task.note.exists() else None
    except (ValueError, RecursionError):
        return None


def _count(task: _Task) -> ShardErrors:
    """Evaluate one shard in a worker process, and save the result."""
    torch.set_num_threads(1)
    tokens = load(task.tokens, "the encoded corpus")
    model = _opened(task.run, tokens.manifest.rows)
    slots, problems, wrong = tokens.manifest.spec["layouts"][task.shard.stratum]["answer"], 0, 0
    first: list[tuple[str, str]] = []
    with tokens.checked(task.shard).opened() as file:
        for batch in pq.ParquetFile(file).iter_batches(_ROWS, columns=["tokens"]):
            rows = token_rows(batch.column(0), tokens)
            predicted = model.fill(rows, slots).ids
            bad = np.flatnonzero((predicted != rows[:, -slots:]).any(1))
            problems, wrong = problems + len(rows), wrong + len(bad)
            for row in bad[: _KEPT - len(first)]:
                first.append((_text(model, rows[row]), _text(model, predicted[row])))
    counted = ShardErrors(
        path=task.shard.path, split=task.shard.split, problems=problems, wrong=wrong, first=tuple(first)
    )
    task.note.write(counted.model_dump_json().encode())
    return counted


@cache
def _opened(run: Location, rows: int) -> TrainedEncoder:
    """The encoder of this process, on one thread; its layers are compiled if the corpus has many rows."""
    model = TrainedEncoder.open(run)
    torch.set_num_threads(1)
    if rows >= _COMPILED_ROWS and has_compiler(next(model.encoder.parameters()).device):
        compile_layers(model.encoder.layers)
    return model


def _text(model: TrainedEncoder, ids: NDArray[np.integer]) -> str:
    pieces = model.tokenizer.pieces()
    return "".join(piece for token in ids.tolist() if (piece := pieces[token]) not in (PAD, BLANK))


def main() -> int:
    """Count errors, and print the totals after each shard."""
    if len(sys.argv) not in (2, 3):
        print("usage: python -m model.evaluation.exhaustive RUN [WORKSPACE]", file=sys.stderr)
        return 2

    def work(stop: Stop) -> int:
        """Count until all shards are done or a signal arrives."""
        problems = wrong = 0
        shown: list[tuple[str, str]] = []
        for found in count_errors(Workspace.create((*sys.argv, "./workspace")[2]), sys.argv[1], stop):
            problems, wrong = problems + found.problems, wrong + found.wrong
            shown += found.first
            print(f"{problems:,} problems, {wrong:,} wrong", flush=True)
        for problem, answer in shown[:_KEPT]:
            print(f"  {problem}, predicted {answer}")
        return 130 if stop() else 0

    return run_plainly(work, sys.argv[1])


if __name__ == "__main__":
    # Imported by its module name, so that the worker processes can unpickle the classes.
    from model.evaluation.exhaustive import main as _main

    sys.exit(_main())
