"""Encoders by name, from the notebook's to the paper's own."""

from model.config.encoder import EncoderConfig

ENCODERS: dict[str, EncoderConfig] = {
    # The notebook's: what "Attention Is All You Need" describes, small.
    "vanilla": EncoderConfig(norm="post", positions=("sinusoidal",)),
    "tiny": EncoderConfig(),
    "small": EncoderConfig(width=256, heads=8, layers=4, feedforward=1024, positions=("place-value", "relative")),
    "base": EncoderConfig(width=512, heads=8, layers=8, feedforward=2048, positions=("place-value", "relative")),
    # Table 3 of the paper, its encoder side.
    "paper": EncoderConfig(width=512, heads=8, layers=6, feedforward=2048, norm="post", positions=("sinusoidal",)),
    # One small layer run again and again, that sees the next places alone: learns what to do at a place and to pass
    # carries on, however long the numbers are.
    "local": EncoderConfig(
        width=64,
        layers=1,
        loops=6,
        min_loops=3,
        warm_loops=32,
        carry_loops=3,
        feedforward=256,
        positions=("relative",),
        reach=1,
        far="hidden",
    ),
    # Two layers, run two or three times, with places and their differences: for + and − of bounded length.
    "signed": EncoderConfig(
        width=64, layers=2, loops=3, min_loops=2, feedforward=256, positions=("relative", "place-value"), reach=5
    ),
    # Two layers, run twice, with places and their differences: for products and expressions.
    "mixing": EncoderConfig(width=128, heads=8, loops=2, positions=("relative", "place-value"), reach=5),
}
