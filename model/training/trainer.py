"""The step loop: the same in a plain process, under DDP and on a GPU, and exact across a resume.

`python -m model.training FILE` trains without Ray or Prefect. The rows, masks and learning rates of a step depend
only on (seed, step). The loss divides by the number of masked slots in the whole batch. So only the order of
additions depends on the number of workers.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torch.nn.parallel import DistributedDataParallel

from model.evaluation.decoding import answering, parts_of
from model.network.compilation import compile_layers, compiles
from model.network.encoder import Encoder
from model.objectives.carry_propagation import CarryArrival
from model.objectives.column_sums import OUTPUTS, RunningSum, running_sum_loss
from model.objectives.objective import Objective
from model.objectives.step_randomness import loops_of, place_offsets, warm_loops_of
from model.plain_process import use_granted_cores
from model.runs.checkpoints import CheckpointEntry, Checkpoints, restore
from model.runs.metrics import MetricsWriter
from model.runs.run_config import load_run, note_precision, run_tokenizer
from model.tokenizer import MASK
from model.training.allocation import keep_freed_memory
from model.training.batches import Stage, batches_from, held_rows, stages_of
from model.training.job import Progress, TrainingJob, TrainingResult
from model.training.optimizer import build_optimizers, precision_name, precision_of, rate_factor, set_rates
from model.training.throughput import Pace, peak_flops, training_flops
from storage.datasets.manifest import load
from storage.errors import RunFailure, UserError
from storage.order import derive_key
from storage.reading.lanes import LANES, lanes_of

# Steps between synchronisations, in which the ranks agree whether to stop and check the loss.
_AGREE_EVERY = 10
_LOCK_SECONDS = 60.0
_NOT_ASKED = -100


def train(
    job: TrainingJob,
    *,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> TrainingResult:
    """Train until the last step or until `stop()` returns True; writes a checkpoint in both cases.

    If `torch.distributed` is initialised, every rank calls this function. Only rank 0 calls `stop` and `report`.
    Raises `RunFailure` for a non-finite loss and for damaged files.
    """
    keep_freed_memory()
    if job.threads:
        torch.set_num_threads(job.threads)
    else:
        use_granted_cores()
    with ExitStack() as stack:
        if _rank() == 0:
            stack.enter_context(job.run.exclusive(f"run {job.config.name!r}", wait_seconds=_LOCK_SECONDS))
        _barrier()
        return _Trainer(job).run(stop, report)


class _Trainer:
    def __init__(self, job: TrainingJob) -> None:
        self.job, self.spec = job, job.config.training
        self.rank, self.ranks = _rank(), dist.get_world_size() if dist.is_initialized() else 1
        self.device = (
            torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        )
        tokenizer = run_tokenizer(job.run, job.config)
        self.mask_id = tokenizer.id_of(MASK)
        self.tokens = load(job.tokens, "the encoded corpus")
        if self.tokens.manifest.identity != job.config.tokens_identity:
            raise UserError(f"the tokens at {job.tokens} do not match run {job.config.name!r}: choose another run name")
        self.pieces = tokenizer.size
        self.objective = Objective(self.spec, tokenizer).to(self.device)
        self.sums = RunningSum(tokenizer).to(self.device) if self.spec.running_sum else None
        self.arrival = CarryArrival(tokenizer).to(self.device) if self.spec.encoder.carry_loops else None
        self.encoder = Encoder(self.spec.encoder, tokenizer, running_sum=self.sums is not None)
        self.encoder.initialise(derive_key(self.spec.seed, "weights"))
        self.encoder.to(self.device)
        self.optimizers = build_optimizers(self.encoder, self.spec)
        self.checkpoints = Checkpoints(job.run / "checkpoints")
        self.metrics = MetricsWriter(job.run / "metrics")
        self.step = self._resume()
        if compiles(self.spec, self.device):
            compile_layers(self.encoder.layers)
        self.model = self._distributed()
        self.precision = self._precision()
        self.pace = Pace(peak_flops(self.device, self.precision))
        self.validation = [
            (layout, torch.from_numpy(rows).to(self.device), held)
            for layout, rows, held in held_rows(
                self.tokens,
                "validation",
                self.spec.validation_rows,
                self.spec.seed,
                self.spec.where,
                rank=self.rank,
                ranks=self.ranks,
            )
        ]
        self.waiting: list[tuple[dict[str, Any], Tensor]] = []

    def run(self, stop: Callable[[], bool], report: Callable[[Progress], None]) -> TrainingResult:
        """Train until the last step or until `stop()` returns True; every rank takes the same number of steps."""
        stages = stages_of(self.tokens, self.spec, self.job.config.oversampled)
        batches = batches_from(stages, self.step, rank=self.rank, ranks=self.ranks)
        stopped, checked, began = False, self.step, time.perf_counter()
        self.pace.begin()
        while self.step < self.spec.steps and not stopped:
            # After a resume, seconds continue from the value at the last checkpoint.
            self._one_step(batches, began - self.seconds)
            last = self.step == self.spec.steps
            if last or self.step % _AGREE_EVERY == 0:
                stopped = self._agree(stop)
            saved = last or stopped or self.step % self.spec.checkpoint_every == 0
            validated = saved or self.step % self.spec.validate_every == 0
            if validated:
                self._settle()
                self.exact_match = self._validate()
                self._record()
            if saved:
                self._save()
            if validated:
                self.pace.begin()
            if self.rank == 0 and (validated or self.step % _AGREE_EVERY == 0):
                rate = (self.step - checked) * self.spec.batch_size / (time.perf_counter() - began)
                report(Progress(self.step, self.spec.steps, self.loss, self.exact_match, rate))
        return TrainingResult(self.step, self.step == self.spec.steps, self.exact_match)

    def _one_step(self, batches: Iterator[tuple[Stage, int, np.ndarray]], began: float) -> None:
        asked = time.perf_counter()
        stage, bucket, rows = next(batches)
        waited = time.perf_counter() - asked
        loss = self._loss(rows, stage.batches.layouts[bucket].answer)
        loss.backward()
        set_rates(self.optimizers, self.step, self.spec)
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        factor = rate_factor(self.step, self.spec)
        self.step += 1
        row = {
            "run": self.job.config.name,
            "step": self.step,
            "epoch": (self.step - stage.first) / stage.batches.steps_per_epoch,
            "problems": self.step * self.spec.batch_size,
            "learning_rate": self.spec.learning_rate * factor,
            "seconds": time.perf_counter() - began,
            "data_seconds": waited,
            "validation_exact_match": None,
        }
        self.waiting.append((row, loss.detach()))

    def _loss(self, rows: np.ndarray, slots: int) -> Tensor:
        """This rank's share of the mean loss over all masked tokens of the global batch, times the number of ranks.

        DDP averages gradients over the ranks, which cancels the factor.
        """
        spec, encoder = self.spec, self.spec.encoder
        first = lanes_of(self.rank, self.ranks)[0] * (spec.batch_size // LANES)
        mine = torch.arange(first, first + len(rows), device=self.device)
        question = self.objective(torch.from_numpy(rows).to(self.device).long(), slots, self.step, mine)
        asked = self.objective.asked(slots, rows.shape[1])
        loops = loops_of(spec.seed, self.step, encoder.min_loops, encoder.loops)
        outputs = self.pieces + (OUTPUTS if self.sums else 0)
        warm = warm_loops_of(spec.seed, self.step, encoder.warm_loops)
        flops = training_flops(encoder, outputs, rows.shape[1], asked, loops, warm)
        self.pace.add(spec.batch_size, flops * len(rows))
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not torch.float32):
            logits = self.model(
                question.ids.masked_fill(question.hidden, self.mask_id),
                slots,
                loops=loops,
                warm=warm,
                offset=place_offsets(spec.seed, self.step, mine).float() if encoder.random_offset else None,
                asked=asked,
                sums=self.sums is not None,
            )
        hidden = question.hidden[:, -asked:]
        if self.arrival:
            under_way = self.arrival(question.ids, slots) + encoder.carry_loops > warm + loops
            hidden = hidden & ~pad(under_way, (asked - slots, 0))
        # Ignored by the loss instead of removed: their number would force a wait for the device.
        targets = question.ids[:, -asked:].masked_fill(~hidden, _NOT_ASKED)
        scores = logits[..., : self.pieces].float().flatten(0, 1)
        total = cross_entropy(scores, targets.flatten(), ignore_index=_NOT_ASKED, reduction="sum")
        share = total * self._per_slot(hidden)
        if self.sums is None:
            return share
        sums, product = self.sums(question.ids, slots)
        counted = question.hidden[:, -slots:] & product[:, None]
        auxiliary = running_sum_loss(logits[:, -slots:, self.pieces :].float(), sums, counted)
        return share + auxiliary * self._per_slot(counted) * spec.running_sum

    def _per_slot(self, hidden: Tensor) -> Tensor:
        """Factor on this rank's sum over masked tokens: the number of ranks, divided by the tokens of all ranks."""
        count = hidden.sum()
        if self.ranks > 1:
            dist.all_reduce(count)
        return (self.ranks / count.clamp(min=1).double()).float()

    def _agree(self, stop: Callable[[], bool]) -> bool:
        """Process the losses of the last steps on all ranks; True if `stop()` is True on rank 0."""
        asked = torch.tensor([float(self.rank == 0 and stop())], device=self.device)
        if self.ranks > 1:
            dist.all_reduce(asked)
        self._settle()
        return bool(asked.item() > 0)

    def _settle(self) -> None:
        if not self.waiting:
            return
        losses = torch.stack([loss for _, loss in self.waiting]).double() / self.ranks
        if self.ranks > 1:
            dist.all_reduce(losses)
        values, pace = losses.tolist(), self.pace.look()
        for (row, _), loss in zip(self.waiting, values, strict=True):
            if not math.isfinite(loss):
                self._refuse(f"the loss is {loss} at step {row['step']}")
            self.metrics.add({**row, **pace, "loss": loss})
        self.loss = losses[-1].item()
        self.waiting.clear()

    def _refuse(self, what: str) -> None:
        """Raise `RunFailure`; the metrics up to here are written, and a resume drops those after its checkpoint."""
        if self.rank == 0:
            self.metrics.flush()
        kept = self.checkpoints.index().last
        where = f"the last good checkpoint is at step {kept.step}" if kept else "there is no checkpoint yet"
        raise RunFailure(f"{what}: {where}; lower learning_rate or matrix_learning_rate")

    def _validate(self) -> float:
        """Exact match on the validation rows, with all slots masked, in one pass."""
        correct = torch.zeros((), dtype=torch.float64, device=self.device)
        with answering(self.encoder, self.precision):
            for layout, held, _ in self.validation:
                for part in parts_of(*held.shape):
                    rows = held[part]
                    shown = rows.clone()
                    shown[:, -layout.answer :] = self.mask_id
                    right = self.encoder(shown, layout.answer).argmax(-1) == rows[:, -layout.answer :]
                    correct += right.all(1).sum()
        self.encoder.train()
        if self.ranks > 1:
            dist.all_reduce(correct)
        return correct.item() / sum(rows for _, _, rows in self.validation)

    def _record(self) -> None:
        """Write the metrics up to this step, so that they can be queried during the run."""
        if self.rank == 0 and self.metrics.rows:
            self.metrics.rows[-1]["validation_exact_match"] = self.exact_match
            self.metrics.flush()
        self.metrics.rows.clear()

    def _save(self) -> None:
        # Non-finite weights would otherwise only show in the next step's loss.
        if not torch.stack([weight.isfinite().all() for weight in self.encoder.parameters()]).all():
            self._refuse(f"the weights are not finite after step {self.step}")
        if self.rank == 0:
            entry = CheckpointEntry(
                step=self.step, exact_match=self.exact_match, file=f"step-{self.step:09d}.safetensors"
            )
            self.checkpoints.save(entry, self.job.config, self.encoder, self.optimizers, self.spec.keep)
        _barrier()

    def _resume(self) -> int:
        entry, _ = self.checkpoints.last_whole()
        step = 0
        self.loss = self.exact_match = self.seconds = 0.0
        if entry:
            restore(self.checkpoints.load(entry, self.job.config), self.encoder, self.optimizers)
            step, self.exact_match = entry.step, entry.exact_match
        if self.rank == 0:
            self.metrics.drop_after(step)
            self.seconds = self.metrics.seconds()
            self.job.run.sweep()
        return step

    def _precision(self) -> torch.dtype:
        """The data type of the run: rank 0 chooses it at the first step, and every resume keeps it on any machine."""
        if self.rank == 0:
            note_precision(self.job.run, precision_name(precision_of(self.spec, self.device)))
        _barrier()
        return torch.bfloat16 if load_run(self.job.run).precision == "bfloat16" else torch.float32

    def _distributed(self) -> nn.Module:
        if self.ranks == 1:
            return self.encoder
        devices = [self.device.index] if self.device.type == "cuda" else None
        # Without this flag, DDP rebuilds its buckets after the first step. A resumed run would then add gradients
        # in another order than an uninterrupted run.
        return DistributedDataParallel(self.encoder, device_ids=devices, find_unused_parameters=True)


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()
