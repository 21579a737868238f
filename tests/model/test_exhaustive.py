"""Every problem of a corpus is evaluated once, and what was counted is not counted again."""

from pathlib import Path

import pytest

from model.evaluation.exhaustive import count_errors
from model.evaluation.predictor import TrainedEncoder
from model.training.trainer import train
from pipelines.spec.corpus import CorpusSpec
from storage.datasets.corpus import Corpus
from tests.builders import TINY_TRAINING, Built, build_small
from tests.model.runs import job_of


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Built:
    spec = CorpusSpec(name="small", terms=2, high=59, rows_per_shard=1_000, validation=0.1, test=0.1)
    return build_small(tmp_path_factory.mktemp("tiny"), spec)


@pytest.mark.slow
def test_errors_are_those_of_typing_each_problem_in(tiny: Built, tmp_path: Path) -> None:
    spec = TINY_TRAINING.model_copy(update={"batch_size": 64, "validation_rows": 64})
    job = job_of(tiny, Path(str(tiny.workspace.run("one"))).parent, spec, "one")
    train(job)
    found = list(count_errors(tiny.workspace, "one"))
    corpus = Corpus.open(str(tiny.corpus.location))
    problems = [row for split in ("train", "validation", "test") for row in corpus.relation(split).fetchall()]
    texts = [f"{a}+{b}" for a in range(60) for b in range(60)]
    solved = TrainedEncoder.open(job.run).solve(texts)
    wrong = sum(one.answer != str(eval(text)) for one, text in zip(solved, texts, strict=True))
    assert sum(each.problems for each in found) == len(problems) == 3_600
    # A few logits of equal size may fall the other way in batches of other sizes.
    assert abs(sum(each.wrong for each in found) - wrong) <= 2
    for each in found:
        assert len(each.first) == min(each.wrong, 100)
    # A damaged note is counted again.
    (evaluations,) = (job.run / "evaluations").children()
    folder = job.run / "evaluations" / evaluations
    (folder / sorted(folder.children())[0]).write(b"{")
    again = list(count_errors(tiny.workspace, "one"))
    assert sorted(again, key=lambda each: each.path) == sorted(found, key=lambda each: each.path)
