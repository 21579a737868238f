"""The tokenizer that the benchmarks encode with."""

from functools import lru_cache

from model.tokenizer import Tokenizer
from pipelines.vocabulary import train_pieces


@lru_cache
def digit_tokenizer() -> Tokenizer:
    """One token a character, trained on one line; every such tokenizer has the whole alphabet."""
    return Tokenizer(train_pieces(["12+34=46"]))
