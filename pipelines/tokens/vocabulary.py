"""Trains a tokenizer on a reproducible sample of a corpus's train split, drawn by DuckDB."""

import io
import json
from itertools import accumulate

import sentencepiece

from model.tokenizer import BLANK, DIGITS, MASK, PAD, UNKNOWN, Tokenizer, TokenizerCard, group_pieces, load_tokenizer
from pipelines.spec.corpus import TokenizerSpec, shares_by_weight
from storage.datasets.manifest import Dataset, ShardRecord
from storage.errors import RunFailure, UserError
from storage.places.place import Location
from storage.sql.database import connect, parquet_source

# Every tokenizer has a piece for each of these characters, even if its corpus does not contain them.
_SIGNS = "+-*()="
_ALPHABET = DIGITS + _SIGNS
# A further sign of corpora of family 'steps' only: the ids of other tokenizers must not change.
_STEP_SIGN = ":"

# The marks of family 'marks': only the tokenizers of corpora with them have pieces for them.
_MARKS = "^."

# Maximum number of characters and special pieces if no pieces are learned, in addition to the groups.
_CHARACTERS = 256

_DIGIT = TokenizerSpec()

# Minimum share of a stratum in the sample, relative to equal shares for all strata.
_LEAST_SHARE = 0.1


def train_tokenizer(spec: TokenizerSpec, corpus: Dataset, folder: Location) -> tuple[Tokenizer, bool]:
    """Returns the tokenizer at `folder`, and whether it was trained by this call.

    Raises `UserError` if another tokenizer exists there, `RunFailure` if a round trip is not exact.
    """
    if (folder / "card.json").exists():
        tokenizer, card = load_tokenizer(folder)
        if (card.corpus_identity, card.spec_hash) != (corpus.manifest.identity, spec.spec_hash):
            raise UserError(
                f"tokenizer {folder.name!r} exists with another configuration (trained on corpus {card.corpus!r}): "
                f"choose another name, or delete {folder}"
            )
        return tokenizer, False
    sample = sample_problems(corpus, spec.sample_rows)
    tokenizer = Tokenizer(train_pieces(sample, spec))
    _prove_round_trip(tokenizer, sample[: spec.proof_rows])
    card = TokenizerCard(
        kind=spec.kind,
        corpus=corpus.manifest.name,
        corpus_identity=corpus.manifest.identity,
        spec_hash=spec.spec_hash,
        pieces=tokenizer.size,
        sample_rows=len(sample),
        model_sha256=tokenizer.identity,
    )
    (folder / "tokenizer.model").write(tokenizer.model)
    (folder / "card.json").write(json.dumps(card.model_dump(), indent=2).encode() + b"\n")
    return tokenizer, True


def sample_problems(corpus: Dataset, rows: int) -> list[str]:
    """Returns at most `rows` problems of the train split as `problem=answer`, the same at every call.

    Every stratum is represented by its share, small ones by slightly more, and this also holds for any prefix of the
    sample. A stratum's order is a keyed permutation, so its first rows are a random sample. Only the shards that
    contain them are read.
    """
    strata: dict[str, list[ShardRecord]] = {}
    for shard in corpus.of_split("train"):
        strata.setdefault(shard.stratum, []).append(shard)
    sizes = [sum(shard.rows for shard in shards) for shards in strata.values()]
    least = sum(sizes) / max(1, len(sizes)) * _LEAST_SHARE
    shares = shares_by_weight(min(rows, sum(sizes)), sizes, [max(size, least) for size in sizes])
    samples = [_first_problems(corpus, shards, share) for shards, share in zip(strata.values(), shares, strict=True)]
    # Spread every stratum evenly over the sample.
    positions = [(number + 0.5) / len(sample) for sample in samples for number in range(len(sample))]
    lines = [line for sample in samples for line in sample]
    return [lines[number] for number in sorted(range(len(lines)), key=positions.__getitem__)]


def _first_problems(corpus: Dataset, shards: list[ShardRecord], rows: int) -> list[str]:
    """The first `rows` problems of the shards as `problem=answer`."""
    starts = accumulate((shard.rows for shard in shards), initial=0)
    paths = [str(corpus.verified(shard)) for shard, start in zip(shards, starts, strict=False) if start < rows]
    if not paths:
        return []
    query = f"SELECT problem || '=' || answer FROM {parquet_source(paths)} LIMIT {int(rows)}"
    with connect(corpus.location) as connection:
        return [line for (line,) in connection.sql(query).fetchall()]


def train_pieces(sample: list[str], spec: TokenizerSpec = _DIGIT) -> bytes:
    """Returns a SentencePiece model for `spec`, with a piece for each character of `sample` and of the alphabet.

    Groups of digits, and signs and marks for learned pieces, are user-defined pieces: learned pieces (BPE, arXiv
    1508.07909; unigram, arXiv 1804.10959) never span two numbers or two marks.
    """
    groups = group_pieces(spec.group)
    signs = _SIGNS + _STEP_SIGN if any(_STEP_SIGN in line for line in sample) else _SIGNS
    # Except for kind 'digit', one character per line, because user-defined pieces would hide some characters.
    alphabet = [_ALPHABET] if spec.kind == "digit" else [*_ALPHABET]
    marks = [mark for mark in _MARKS if any(mark in line for line in sample)]
    sink = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*sample, *alphabet]),
        model_writer=sink,
        model_type="char" if spec.group else spec.kind,
        vocab_size=_CHARACTERS + len(groups) if spec.group else spec.vocabulary,
        hard_vocab_limit=False,
        character_coverage=1.0,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        pad_id=0,
        pad_piece=PAD,
        unk_id=1,
        unk_piece=UNKNOWN,
        bos_id=-1,
        eos_id=-1,
        user_defined_symbols=[MASK, BLANK, *(groups if spec.group else [*signs, *marks])],
        num_threads=1,
        minloglevel=2,
    )
    return sink.getvalue()


def _prove_round_trip(tokenizer: Tokenizer, lines: list[str]) -> None:
    for line in lines:
        ids = tokenizer.encode(line)
        if tokenizer.decode(ids) != line or tokenizer.processor.unk_id() in ids:
            raise RunFailure(
                f"the tokenizer does not decode {line!r} exactly: train it on a larger sample (sample_rows)"
            )
