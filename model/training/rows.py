"""A corpus's token rows as tensors, for a custom training loop."""

import warnings
from collections.abc import Iterator

import torch

from model.training.batches import Batches
from storage.datasets.corpus import Corpus
from storage.datasets.manifest import load


def tensors(
    corpus: Corpus, tokenizer: str, split: str = "train", *, batch_size: int = 512, seed: int = 0
) -> Iterator[torch.Tensor]:
    """Endless batches of token ids [batch_size, width], in the order of `numerate train` without predicates.

    The ids are uint8, or int16 if the tokenizer has more than 256 pieces. All rows of a batch have one width; the
    width may differ between batches. A warning names rows that are in no batch, because fewer of their width exist.

    Raises `UserError` if the corpus is not encoded with that tokenizer or is too small.
    """
    folder = corpus.workspace.tokens(corpus.dataset.manifest.name, tokenizer)
    tokens = load(folder, f"corpus {corpus.dataset.manifest.name!r} encoded with {tokenizer!r}")
    batches = Batches.of(tokens, split, batch_size, seed)
    if batches.left_out:
        warnings.warn(batches.left_out, stacklevel=2)
    return (torch.from_numpy(rows) for _, rows in batches.reader.batches(0))
