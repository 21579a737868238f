"""The step loop: the same in a plain process, under DDP and on a GPU, and exact across a resume.

`python -m model.training FILE` trains without Ray or Prefect. The rows, masks and learning rates of a step depend
only on (seed, step). The loss divides by the number of masked slots in the whole batch. So only the order of
additions depends on the number of workers.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from model.network.compilation import compile_layers, compiles
from model.objectives.choice import objective_of
from model.objectives.objective import Batch
from model.process import prepare_torch
from model.ranks import add_up, barrier, rank, ranks
from model.runs.run_config import load_run, note_precision, run_tokenizer
from model.training.batches import Stage, batches_from, stages_of
from model.training.checkpointing import TrainingCheckpoints
from model.training.hardware import peak_flops, precision_name, precision_of
from model.training.job import Progress, TrainingJob, TrainingResult
from model.training.optimizer import build_optimizers, rate_factor, take_step
from model.training.step_metrics import StepMetrics
from model.training.validation import Validation
from storage.datasets.manifest import load
from storage.errors import UserError
from storage.order import derive_key
from storage.reading.lanes import LANES, lanes_of

# Steps between synchronisations, in which the processes agree whether to stop and check the loss.
_AGREE_EVERY = 10
_LOCK_SECONDS = 60.0


def train(
    job: TrainingJob,
    *,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> TrainingResult:
    """Train until the last step or until `stop()` returns True; writes a checkpoint in both cases.

    If `torch.distributed` is initialised, every process calls this function. Only rank 0 calls `stop` and `report`.
    Raises `RunFailure` for a non-finite loss and for damaged files.
    """
    prepare_torch(job.threads)
    with ExitStack() as stack:
        if rank() == 0:
            stack.enter_context(job.run.exclusive(f"run {job.config.name!r}", wait_seconds=_LOCK_SECONDS))
        barrier()
        return _Trainer(job).run(stop, report)


class _Trainer:
    def __init__(self, job: TrainingJob) -> None:
        self.job, self.spec = job, job.config.training
        self.device = (
            torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        )
        tokenizer = run_tokenizer(job.run, job.config)
        self.tokens = load(job.tokens, "the encoded corpus")
        if self.tokens.manifest.identity != job.config.tokens_identity:
            raise UserError(f"the tokens at {job.tokens} do not match run {job.config.name!r}: choose another run name")
        self.objective = objective_of(self.spec, tokenizer).to(self.device)
        self.encoder = self.objective.encoder()
        self.encoder.initialise(derive_key(self.spec.seed, "weights"))
        self.encoder.to(self.device)
        self.optimizers = build_optimizers(self.encoder, self.spec)
        self.checkpoints = TrainingCheckpoints(job, self.encoder, self.optimizers)
        self.step, self.exact_match = self.checkpoints.resume()
        if compiles(self.spec, self.device):
            compile_layers(self.encoder.layers)
        self.precision = self._precision()
        self.forward = self._distributed(self.objective.training_pass(self.encoder, self.precision))
        self.metrics = StepMetrics(job.run, self.step, peak_flops(self.device, self.precision))
        self.validation = Validation(self.tokens, self.spec, self.objective, self.device)

    def run(self, stop: Callable[[], bool], report: Callable[[Progress], None]) -> TrainingResult:
        """Train until the last step or until `stop()` returns True; every process takes the same number of steps."""
        stages = stages_of(self.tokens, self.spec, self.job.config.oversampled)
        batches = batches_from(stages, self.step, rank=rank(), ranks=ranks())
        stopped, first, began = False, self.step, time.perf_counter()
        self.metrics.begin()
        while self.step < self.spec.steps and not stopped:
            self._one_step(batches)
            last = self.step == self.spec.steps
            agree = last or self.step % _AGREE_EVERY == 0
            if agree:
                stopped = self._agree(stop)
            saved = last or stopped or self.step % self.spec.checkpoint_every == 0
            validated = saved or self.step % self.spec.validate_every == 0
            if validated:
                self._check_losses()
                found = self.validation.measure(self.encoder, self.precision)
                self.exact_match = found.exact_match
                self.metrics.write(found)
            if saved:
                self.checkpoints.save(self.step, self.exact_match)
            if validated:
                self.metrics.restart()
            if rank() == 0 and (validated or agree):
                rate = (self.step - first) * self.spec.batch_size / (time.perf_counter() - began)
                report(Progress(self.step, self.spec.steps, self.metrics.loss, self.exact_match, rate))
        return TrainingResult(self.step, self.step == self.spec.steps, self.exact_match)

    def _one_step(self, batches: Iterator[tuple[Stage, int, np.ndarray]]) -> None:
        waiting_since = time.perf_counter()
        stage, bucket, rows = next(batches)
        waited = time.perf_counter() - waiting_since
        batch = self._batch(rows, stage.batches.layouts[bucket].answer)
        loss = self.objective.loss(self.forward, batch)
        loss.backward()
        take_step(self.optimizers, self.step, self.spec)
        rate = self.spec.learning_rate * rate_factor(self.step, self.spec)
        self.step += 1
        row = {
            "run": self.job.config.name,
            "step": self.step,
            "epoch": (self.step - stage.first) / stage.batches.steps_per_epoch,
            "problems": self.step * self.spec.batch_size,
            "learning_rate": rate,
            "data_seconds": waited,
        }
        self.metrics.add(row, loss, self.spec.batch_size, self.objective.flops(batch))

    def _batch(self, rows: np.ndarray, slots: int) -> Batch:
        first = lanes_of(rank(), ranks())[0] * (self.spec.batch_size // LANES)
        ids = torch.from_numpy(rows).to(self.device).long()
        return Batch(ids, slots, self.step, torch.arange(first, first + len(rows), device=self.device))

    def _agree(self, stop: Callable[[], bool]) -> bool:
        """Process the losses of the last steps; True in all processes if `stop()` is True on rank 0."""
        stopped = add_up(torch.tensor([float(rank() == 0 and stop())], device=self.device))
        self._check_losses()
        return bool(stopped.item() > 0)

    def _check_losses(self) -> None:
        """Raise `RunFailure` for a non-finite loss; a resume drops the metrics after its checkpoint."""
        if diverged := self.metrics.settle():
            self.metrics.write()
            raise self.checkpoints.failure(f"the loss is {diverged['loss']} at step {diverged['step']}")

    def _precision(self) -> torch.dtype:
        """The data type of the run: rank 0 chooses it at the first step, and every resume keeps it on any machine."""
        if rank() == 0:
            note_precision(self.job.run, precision_name(precision_of(self.spec.precision, self.device)))
        barrier()
        return torch.bfloat16 if load_run(self.job.run).precision == "bfloat16" else torch.float32

    def _distributed(self, forward: nn.Module) -> nn.Module:
        if ranks() == 1:
            return forward
        devices = [self.device.index] if self.device.type == "cuda" else None
        # Without this flag, DDP rebuilds its buckets after the first step. A resumed run would then add gradients
        # in another order than an uninterrupted run.
        return DistributedDataParallel(forward, device_ids=devices, find_unused_parameters=True)
