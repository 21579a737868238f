"""Encoders by name, from the notebook's to the paper's own."""

from collections.abc import Callable

from model.config import EncoderConfig
from model.encoder import Encoder
from model.tokenizer import Tokenizer

ENCODERS: dict[str, EncoderConfig] = {
    # The notebook's: what "Attention Is All You Need" describes, small.
    "vanilla": EncoderConfig(norm="post", positions=("sinusoidal",)),
    "tiny": EncoderConfig(),
    "small": EncoderConfig(width=256, heads=8, layers=4, feedforward=1024, positions=("place-value", "relative")),
    "base": EncoderConfig(width=512, heads=8, layers=8, feedforward=2048, positions=("place-value", "relative")),
    # Table 3 of the paper, its encoder side.
    "paper": EncoderConfig(width=512, heads=8, layers=6, feedforward=2048, norm="post", positions=("sinusoidal",)),
    # One small layer run again and again, that looks three places far: learns what to do at a place, however long
    # the numbers are.
    "local": EncoderConfig(
        width=64, layers=1, loops=6, min_loops=2, feedforward=256, positions=("relative",), reach=3, far="hidden"
    ),
    # Two layers, run two or three times, with places and their differences: for + and − of bounded length.
    "signed": EncoderConfig(
        width=64, layers=2, loops=3, min_loops=2, feedforward=256, positions=("relative", "place-value"), reach=5
    ),
}

_PARTS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("token embedding", lambda name: name.startswith("tokens")),
    ("positions", lambda name: name.startswith(("positions", "bias"))),
    ("attention", lambda name: ".attention." in name),
    ("feed-forward", lambda name: ".expand." in name or ".contract." in name),
    ("norms", lambda name: "norm" in name),
    ("output layer", lambda name: name.startswith("head")),
)


def parameter_table(config: EncoderConfig, tokenizer: Tokenizer) -> dict[str, int]:
    """Number of weights of each part of an encoder; the parts add up to all of them."""
    encoder = Encoder(config, tokenizer)
    counts = dict.fromkeys((part for part, _ in _PARTS), 0)
    for name, weight in encoder.named_parameters():
        part = next(part for part, holds in _PARTS if holds(name))
        counts[part] += weight.numel()
    return counts
