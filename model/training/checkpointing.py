"""The checkpoints of a training: resumes from the newest intact one, and saves the current state."""

import torch
from torch import nn
from torch.optim import Optimizer

from model.ranks import barrier, rank
from model.runs.checkpoints import CheckpointEntry, Checkpoints, restore
from model.training.job import TrainingJob
from storage.errors import RunFailure


class TrainingCheckpoints:
    """Restores and saves a model and its optimizers; every process calls every method."""

    def __init__(self, job: TrainingJob, model: nn.Module, optimizers: dict[str, Optimizer]) -> None:
        self.job, self.model, self.optimizers = job, model, optimizers
        self.stored = Checkpoints(job.run / "checkpoints")

    def resume(self) -> tuple[int, float]:
        """Restore the newest intact checkpoint; its step and exact match, or zeros if there is none."""
        entry, _ = self.stored.newest_intact()
        if entry:
            restore(self.stored.load(entry, self.job.config), self.model, self.optimizers)
        if rank() == 0:
            self.job.run.sweep()
        return (entry.step, entry.exact_match) if entry else (0, 0.0)

    def save(self, step: int, exact_match: float) -> None:
        """Write a checkpoint; raises `RunFailure` if the weights are not finite."""
        # Non-finite weights would otherwise only show in the next step's loss.
        if not torch.stack([weight.isfinite().all() for weight in self.model.parameters()]).all():
            raise self.failure(f"the weights are not finite after step {step}")
        if rank() == 0:
            entry = CheckpointEntry(step=step, exact_match=exact_match, file=f"step-{step:09d}.safetensors")
            self.stored.save(entry, self.job.config, self.model, self.optimizers, self.job.config.training.keep)
        barrier()

    def failure(self, reason: str) -> RunFailure:
        """The error of a diverged training, with the checkpoint from which a resume continues."""
        last = self.stored.index().last
        where = f"the last good checkpoint is at step {last.step}" if last else "there is no checkpoint yet"
        return RunFailure(f"{reason}: {where}; lower learning_rate or matrix_learning_rate")
