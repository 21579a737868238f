"""A corpus's token rows as tensors, for a loop of one's own."""

from collections.abc import Iterator

import torch

from model.run import layout_of
from model.training import plan_of
from storage.corpus import Corpus
from storage.manifest import load
from storage.reader import ElasticReader


def tensors(
    corpus: Corpus, tokenizer: str, split: str = "train", *, batch_size: int = 512, seed: int = 0
) -> Iterator[torch.Tensor]:
    """Token ids, uint8 [batch_size, width], without end, in the order in which `numerate train` reads them.

    Raises `UserError` where the corpus isn't encoded by that tokenizer or is too small.
    """
    folder = corpus.workspace.tokens(corpus.dataset.manifest.name, tokenizer)
    tokens = load(folder, f"corpus {corpus.dataset.manifest.name!r} encoded by {tokenizer!r}")
    layout = layout_of(tokens)
    plan = plan_of(tokens, split, batch_size, seed)
    reader = ElasticReader(tuple(tokens.paths(split)), plan, layout.width)
    return (torch.from_numpy(rows) for rows in reader.batches(0))
