"""Runs the numeric tests with the vector instructions, threads and precisions of other machines.

`python -m tests.portable` runs all combinations, `python -m tests.portable NAME …` the named ones. Each value of each
setting occurs in a combination. No combination has bfloat16 with oneDNN limited to AVX2: that is hundreds of times
slower, and `auto` never chooses it. A processor without bfloat16 instructions leaves out its combinations.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from model.training.hardware import supports_bfloat16

# The test files that compare floats of an encoder or of a probe, or answers that depend on them.
NUMERIC = (
    *(
        f"tests/model/test_{name}.py"
        for name in (
            "decoding", "encoder", "evaluation", "optimizer", "precision", "probing_decoders",
            "probing_geometry", "probing_interventions", "probing_rewriting", "probing_states", "probing_study",
            "probing_unit", "resume", "rewriting_by_code", "rewriting_loop", "rewriting_training", "running_sum",
            "seeds", "shipped", "step_by_hand", "tokenizer", "training", "units",
        )
    ),
    *(f"tests/flows/test_{name}.py" for name in ("evaluation", "probing", "solving", "suites")),
)  # fmt: skip
_LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")


@dataclass(frozen=True)
class Machine:
    """The settings of a simulated machine; `limits` are environment variables that limit vector instructions."""

    threads: int
    precision: str
    """The precision of trainings that need no other one; the encoders that come with Numerate use `auto`."""
    limits: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        limits = ", ".join(f"{name}={value}" for name, value in self.limits.items()) or "no limits"
        return f"{limits}, {self.threads} thread{'s' * (self.threads > 1)}, {self.precision}"


MACHINES = {
    "own-bfloat16": Machine(1, "bfloat16"),
    "own-threads": Machine(2, "float32"),
    "default": Machine(1, "float32", {"ATEN_CPU_CAPABILITY": "default"}),
    "onednn-avx2": Machine(1, "float32", {"ONEDNN_MAX_CPU_ISA": "AVX2"}),
    "avx2": Machine(2, "float32", {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}),
    "aten-avx2-bfloat16": Machine(2, "bfloat16", {"ATEN_CPU_CAPABILITY": "avx2"}),
}


def main() -> None:
    """Entry point of `make test-portable`."""
    parser = argparse.ArgumentParser(prog="python -m tests.portable", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(MACHINES)}; default: all")
    names = parser.parse_args().names or [*MACHINES]
    if unknown := [name for name in names if name not in MACHINES]:
        parser.error(f"combination {unknown[0]!r} is unknown: choose from {', '.join(MACHINES)}")
    if not supports_bfloat16(torch.device("cpu")):
        for name in [name for name in names if MACHINES[name].precision == "bfloat16"]:
            print(
                f"{name} ({MACHINES[name]}): left out, because this processor has no bfloat16 instructions", flush=True
            )
            names.remove(name)
        if not names:
            sys.exit("nothing was run")
    failed = [name for name in names if not _passes(name, MACHINES[name])]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; python -m tests.portable {' '.join(failed)} repeats them")


def _passes(name: str, machine: Machine) -> bool:
    """Run the tests and print a line, followed by the failures."""
    threads = str(machine.threads)
    environment = {key: value for key, value in os.environ.items() if key not in _LIMITS} | machine.limits
    environment |= {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    environment |= {"NUMERATE_TEST_THREADS": threads, "NUMERATE_TEST_PRECISION": machine.precision}
    command = [sys.executable, "-m", "pytest", "-m", "not slow", "-rf", "--tb=short", "--durations=1", *NUMERIC]
    # With one thread per process, two processes use two cores.
    command += ["-n", "2", "--dist", "loadfile"] if machine.threads == 1 else []
    began = time.monotonic()
    result = subprocess.run(
        command,
        env=environment,
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    outcome = "passed" if not result.returncode else "FAILED"
    print(f"{name} ({machine}): {outcome}, {_counts(result.stdout)}, {time.monotonic() - began:.0f} s", flush=True)
    if result.returncode:
        print("\n".join(_failures(result.stdout)), flush=True)
    return not result.returncode


def _counts(output: str) -> str:
    """pytest's summary line, without its time."""
    lines = [line for line in output.splitlines() if " passed" in line or " failed" in line or " error" in line]
    return lines[-1].strip("= ").rpartition(" in ")[0] if lines else "no tests ran"


def _failures(output: str) -> Iterator[str]:
    """pytest's output from the first failure on; the whole output if it has none."""
    lines = output.splitlines()
    first = next((n for n, line in enumerate(lines) if "= FAILURES =" in line or "= ERRORS =" in line), 0)
    yield from lines[first:]


if __name__ == "__main__":
    main()
