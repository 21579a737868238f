"""Rare problems fill their share of every batch, for any number of ranks and after a resume."""

import json
from itertools import islice

import numpy as np
import pytest

from model.runs.run_config import RunConfig, load_run
from model.training.batches import Batches, Stage, batches_from, stages_of
from model.training.rare_problems import corner_ranges, rare_problems
from pipelines.spec.corpus import CorpusSpec
from storage.datasets.corpus import Corpus
from tests.builders import TINY_TRAINING, Built, build_small

# Its corners hold 2 in 1,000 problems.
GRID = CorpusSpec(name="triples", terms=3, high=59, rows_per_shard=60_000, validation=0.05, test=0.05)
BATCH = 512


@pytest.fixture(scope="module")
def triples(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build_small(tmp_path_factory.mktemp("triples"), GRID)


@pytest.fixture(scope="module")
def stages(triples: Built) -> list[Stage]:
    spec = TINY_TRAINING.model_copy(update={"batch_size": BATCH})
    return stages_of(triples.tokens, spec, rare_problems([GRID.model_dump()]))


@pytest.fixture(scope="module")
def whole(stages: list[Stage]) -> list[np.ndarray]:
    """The first batches of one rank."""
    return [rows.copy() for _, _, rows in islice(batches_from(stages, 0), 60)]


def is_rare(numbers: list[int]) -> bool:
    """By hand: all of them in 0–5 or in 54–59, or a sum that ends in 99 or 00."""
    return max(numbers) <= 5 or min(numbers) >= 54 or sum(numbers) % 100 in (0, 99)


def test_every_batch_holds_its_share_of_rare_problems_and_an_epoch_all_of_them(
    triples: Built, whole: list[np.ndarray]
) -> None:
    seen, known = set(), triples.tokenizer.pieces()
    for rows in whole:
        pieces = [[known[token] for token in row] for row in rows]
        texts = ["".join(row[: row.index("=")]).replace("[PAD]", "") for row in pieces]
        numbers = [tuple(int(number) for number in text.split("+")) for text in texts]
        rare = [each for each in numbers if is_rare(list(each))]
        # Two of each lane's eight rows; chance adds few.
        assert BATCH // 4 <= len(rare) < BATCH // 2
        seen |= {each for each in rare if max(each) <= 5 or min(each) >= 54}
    corners = (
        Corpus.open(str(triples.corpus.location))
        .relation("train")
        .filter("greatest(a, b, c) <= 5 OR least(a, b, c) >= 54")
    )
    missed = set(corners.select("a, b, c").fetchall()) - seen
    # An epoch leaves out less than a batch's rows and 63 more.
    assert seen
    assert len(missed) < BATCH // 4 + 63


@pytest.mark.parametrize("ranks", [3, 8])
def test_ranks_and_resumes_read_the_same_rows(stages: list[Stage], whole: list[np.ndarray], ranks: int) -> None:
    parts = [
        [rows.copy() for _, _, rows in islice(batches_from(stages, 4, rank=rank, ranks=ranks), 3)]
        for rank in range(ranks)
    ]
    for step in range(3):
        assert np.array_equal(np.concatenate([part[step] for part in parts]), whole[4 + step])


def test_only_sparse_grids_of_sums_have_rare_problems() -> None:
    part = GRID.model_dump()
    assert rare_problems([part])
    assert not rare_problems([{**part, "terms": 2}])
    assert not rare_problems([{**part, "operators": ("+", "-")}])
    assert not rare_problems([{**part, "family": "digits"}])
    assert corner_ranges({**part, "low": 10, "high": 109}) == [(10, 19), (100, 109)]
    assert corner_ranges({**part, "high": 8}) == []


def test_a_run_of_before_knows_no_oversampling(triples: Built) -> None:
    folder = triples.workspace.run("older")
    config = RunConfig.of("older", TINY_TRAINING, triples.corpus, triples.tokens, ("triples-digit", triples.tokenizer))
    assert config.oversampled
    values = config.model_dump(mode="json")
    del values["training"]["oversample"], values["training"]["oversample_share"]
    (folder / "run.json").write(json.dumps(values).encode())
    assert load_run(folder).oversampled == ""


def test_too_few_rare_rows_for_a_batch_leave_it_as_it_was(triples: Built) -> None:
    spec = TINY_TRAINING.model_copy(update={"batch_size": BATCH})
    plain, few = stages_of(triples.tokens, spec), stages_of(triples.tokens, spec, "a = 1 AND b = 1 AND c = 1")
    assert isinstance(plain[0].batches, Batches)
    for (_, _, one), (_, _, other) in zip(islice(batches_from(plain, 0), 2), batches_from(few, 0), strict=False):
        assert np.array_equal(one, other)
