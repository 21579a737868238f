"""`python -m model.training FILE`: trains in this process, without Ray or Prefect."""

import sys

from model.config.training import TrainingFile
from model.process import Stop, run_plainly
from model.runs.checkpoints import Checkpoints
from model.training.job import TrainingJob, TrainingResult
from model.training.launchers.parallel_runs import train_in_processes
from model.training.preflight import prepare
from model.training.trainer import train
from storage.ending import end_process
from storage.parameters import read_parameters
from storage.workspace import Workspace


def main() -> int:
    """Train in this process with the `TrainingFile` parameters of a YAML or JSON file.

    With several `seeds`, each seed trains in a separate process, in parallel.
    """
    if len(sys.argv) != 2:
        print(
            f"usage: python -m model.training FILE  (YAML or JSON: {', '.join(TrainingFile.model_fields)})",
            file=sys.stderr,
        )
        return 2

    def work(stop: Stop) -> int:
        """Train, print the result of each run, and return the exit code."""
        file = TrainingFile.model_validate(read_parameters(sys.argv[1]))
        workspace, name = Workspace.create(file.workspace), file.name or file.corpus
        jobs = prepare(workspace, name, file.corpus, file.tokenizer_name, file.training, file.seeds)
        for line in (*file.training.ignored, *jobs[0].left_out):
            print(f"warning: {line}", file=sys.stderr)
        results = train_in_processes(jobs, stop) if len(jobs) > 1 else [_train_here(jobs[0], stop)]
        for job, result in zip(jobs, results, strict=True):
            run = f"run {job.config.name}: " if len(jobs) > 1 else ""
            print(
                f"{run}step {result.step} of {file.training.steps}, exact match on validation {result.exact_match:.4%}"
            )
        return 0 if all(result.finished for result in results) else 130

    return run_plainly(work, sys.argv[1])


def _train_here(job: TrainingJob, stop: Stop) -> TrainingResult:
    if warning := Checkpoints(job.run / "checkpoints").warning():
        print(f"warning: {warning}", file=sys.stderr)
    return train(job, stop=stop, report=lambda progress: print(progress, flush=True))


if __name__ == "__main__":
    end_process(main())
