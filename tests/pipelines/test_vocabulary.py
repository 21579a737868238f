from collections import Counter

import pyarrow.parquet as pq
import pytest

from model.tokenizer import Tokenizer
from pipelines.spec.corpus import CorpusSpec, MixturePart, TokenizerKind, TokenizerSpec
from pipelines.tokens.vocabulary import sample_problems, train_pieces
from storage.datasets.manifest import Dataset
from storage.places.disk import LocalLocation
from tests.builders import Built, build_corpus_plainly

MIXED = CorpusSpec(
    name="mixed",
    rows=30_000,
    rows_per_shard=2_000,
    mixture=(
        MixturePart(family="grid", terms=2, high=300),
        MixturePart(family="digits", terms=2, digits=12, operators=("-",)),
        MixturePart(family="expression", terms=4, digits=1, depth=2, operators=("+", "*"), weight=0.02),
    ),
)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build_corpus_plainly(MIXED, LocalLocation(tmp_path_factory.mktemp("mixed")))


def strata_of(corpus: Dataset) -> dict[str, str]:
    """The stratum of every train problem."""
    found = {}
    for shard in corpus.of_split("train"):
        table = pq.ParquetFile((corpus.location / shard.path).path).read()
        for row in zip(*(table[name].to_pylist() for name in ("problem", "answer")), strict=True):
            found["=".join(row)] = shard.stratum
    return found


def test_sample_of_a_mixture_and_its_prefixes_have_every_stratum_in_proportion(mixed: Dataset) -> None:
    strata = strata_of(mixed)
    held: Counter[str] = Counter()
    for shard in mixed.of_split("train"):
        held[shard.stratum] += shard.rows
    assert len(held) >= 4
    sample = sample_problems(mixed, 3_000)
    assert len(sample) == 3_000
    assert sample == sample_problems(mixed, 3_000)
    for part in (sample, sample[:1_000]):
        found = Counter(strata[line] for line in part)
        for stratum, rows in held.items():
            share = max(rows / held.total(), 0.1 / len(held))
            assert found[stratum] == pytest.approx(share * len(part), rel=0.1, abs=1.5), stratum


def test_only_required_shards_are_read(mixed: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    verified = Dataset.verified
    monkeypatch.setattr(Dataset, "verified", lambda self, shard: (read.append(shard), verified(self, shard))[1])
    sample_problems(mixed, 1_000)
    assert {shard.stratum for shard in read} == {shard.stratum for shard in mixed.of_split("train")}
    assert len(read) <= len({shard.stratum for shard in read}) + 2


def test_a_sample_larger_than_the_corpus_is_all_of_it(mixed: Dataset) -> None:
    assert sorted(set(sample_problems(mixed, 100_000))) == sorted(strata_of(mixed))


def test_a_sample_of_one_stratum_is_its_first_rows(small: Built) -> None:
    first = []
    for path in small.corpus.paths("train"):
        table = pq.ParquetFile(path).read()
        rows = zip(*(table[name].to_pylist() for name in ("problem", "answer")), strict=True)
        first += ["=".join(row) for row in rows]
    for rows in (1, 1_000, 5_000, len(first)):
        assert sample_problems(small.corpus, rows) == first[:rows]


@pytest.mark.parametrize("kind", ["digit", "pairs", "triples", "bpe", "unigram"])
def test_only_corpora_of_steps_have_a_piece_for_the_colon(kind: TokenizerKind) -> None:
    spec = TokenizerSpec(kind=kind)
    lines = [f"{a}*{b}={a * b}" for a in range(40) for b in range(40)]
    steps = [f"{a}*{b % 10}:{a * 3}={a * 30 + a * (b % 10)}" for a in range(40) for b in range(40)]
    tokenizer = Tokenizer(train_pieces([*lines, *steps], spec))
    # No learned piece spans two numbers.
    assert [piece for piece in tokenizer.pieces() if ":" in piece] == [":"]
    assert tokenizer.decode(tokenizer.encode("-345*02:2070=-20700")) == "-345*02:2070=-20700"
    assert ":" not in Tokenizer(train_pieces(lines, spec)).pieces()
