from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flows.solving import Solver
from model.checkpoint import Checkpoints
from model.shipped import export, run_or_shipped, shipped_runs
from model.trained import TrainedEncoder, extent_of
from model.training import train
from pipelines.reserved import adderboard, edge_cases
from storage.errors import RunFailure, UserError
from storage.location import Location, Workspace
from tests.builders import TINY_TRAINING, Built
from tests.model.test_training import job_of


def test_an_exported_run_answers_as_it_did_and_holds_weights_alone(small: Built, tmp_path: Path) -> None:
    job = job_of(small, tmp_path, TINY_TRAINING)
    train(job)
    target = Location(tmp_path / "exported")
    entry = export(job.run, target, "last")
    tensors = load_file((target / "checkpoints" / entry.file).path)
    assert all(name.startswith("model.") and value.dtype == torch.bfloat16 for name, value in tensors.items())
    before, after = TrainedEncoder.open(job.run, "last"), TrainedEncoder.open(target)
    for old, new in zip(before.encoder.parameters(), after.encoder.parameters(), strict=True):
        assert torch.allclose(old, new, rtol=1 / 256, atol=0)
    assert after.config == before.config.model_copy(update={"name": "exported"})
    assert len(after.solve(["1+2", "99+1"])) == 2
    with pytest.raises(UserError, match="is not empty: name a new folder"):
        export(job.run, target)


def test_a_changed_export_is_refused(small: Built, tmp_path: Path) -> None:
    job = job_of(small, tmp_path, TINY_TRAINING)
    train(job)
    target = Location(tmp_path / "exported")
    entry = export(job.run, target)
    place = target / "checkpoints" / entry.file
    place.write(place.read()[:-1] + b"x")
    with pytest.raises(RunFailure, match="is damaged"):
        TrainedEncoder.open(target)


def test_an_encoder_that_comes_with_numerate_is_a_run_like_any_other_once_it_is_asked(tmp_path: Path) -> None:
    workspace = Workspace.create(str(tmp_path))
    copied, source = run_or_shipped(workspace.run("addition")), shipped_runs()["addition"]
    assert TrainedEncoder.open(copied).checkpoint == TrainedEncoder.open(source).checkpoint
    own = (copied / "run.json").read().replace(b"addition-10", b"addition-11")
    (copied / "run.json").write(own)
    assert (run_or_shipped(copied) / "run.json").read() == own
    assert not (run_or_shipped(workspace.run("other")) / "run.json").exists()


def test_a_problem_beyond_what_was_learnt_is_refused(small: Built, tmp_path: Path) -> None:
    job = job_of(small, tmp_path, TINY_TRAINING)
    train(job)
    model = TrainedEncoder.open(job.run)
    for problem, words in (("123+4", "3 digits, the run learnt up to 2"), ("1+2+3", "3 operands, the run learnt 2")):
        with pytest.raises(UserError, match=words):
            model.solve([problem])
    assert Checkpoints(job.run / "checkpoints").index().last


def test_the_extent_of_a_problem_is_read_off_its_text() -> None:
    assert extent_of("12+345") == (6, 5, 3, 2, 0)
    assert extent_of("(12*345)-(7-(8))") == (16, 8, 3, 4, 2)


@pytest.mark.parametrize("name", list(shipped_runs()))
def test_what_comes_with_numerate_answers(name: str) -> None:
    model = TrainedEncoder.open(shipped_runs()[name])
    count = model.config.operand_counts.start
    problems = ["+".join(numbers[:count]) for numbers in (["12", "34", "5", "99"], ["70", "80", "90", "60"])]
    assert [solution.answer for solution in model.solve(problems)] == [str(eval(problem)) for problem in problems]


def test_a_newcomer_is_answered_by_the_first_encoder_that_holds_the_problem(tmp_path: Path) -> None:
    solver = Solver(Workspace.create(str(tmp_path)), "")
    for problem, name in (("123456789 + 987654321", "addition"), ("12+34+5+99", "notebook")):
        model, text = solver.model_for(problem)
        assert model.config.name == name
        assert model.solve([text])[0].answer == str(eval(problem))
    with pytest.raises(UserError, match=r"learnt \+ alone"):
        solver.model_for("3*4")


@pytest.mark.slow
def test_the_shipped_adder_passes_adderboards_public_test_and_fails_only_at_long_chains() -> None:
    model = TrainedEncoder.open(shipped_runs()["addition"])
    problems = adderboard()
    answers = [solution.answer for solution in model.solve(problems)]
    assert sum(answer == str(eval(problem)) for problem, answer in zip(problems, answers, strict=True)) == 10_010
    edges = [problem for problem in edge_cases() if "+" in problem]
    answers = [solution.answer for solution in model.solve(edges)]
    wrong = [problem for problem, answer in zip(edges, answers, strict=True) if answer != str(eval(problem))]
    assert min(max(map(len, problem.split("+"))) for problem in wrong) > 12


def test_what_comes_with_numerate_is_small() -> None:
    sizes = [TrainedEncoder.open(place).encoder.parameter_count() for place in shipped_runs().values()]
    assert sum(sizes) <= 4_000_000
