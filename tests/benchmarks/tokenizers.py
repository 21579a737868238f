"""The tokenizers that the benchmarks encode with."""

import random
from functools import lru_cache
from typing import Literal

from model.tokenizer import Tokenizer
from pipelines.spec.corpus import TokenizerSpec
from pipelines.tokens.vocabulary import train_pieces


@lru_cache
def learnt_tokenizer(kind: Literal["bpe", "unigram"]) -> Tokenizer:
    """Pieces learnt from sums of four numbers 0–99."""
    drawn = random.Random(0)
    problems = [[drawn.randrange(100) for _ in range(4)] for _ in range(20_000)]
    lines = [f"{'+'.join(map(str, numbers))}={sum(numbers)}" for numbers in problems]
    return Tokenizer(train_pieces(lines, TokenizerSpec(kind=kind)))


@lru_cache
def digit_tokenizer() -> Tokenizer:
    """One token a character, trained on one line; every such tokenizer has the whole alphabet."""
    return Tokenizer(train_pieces(["12+34=46"]))
