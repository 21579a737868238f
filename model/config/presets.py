"""Named encoder configurations, from the notebook's encoder to the paper's."""

from model.config.encoder import EncoderConfig

ENCODERS: dict[str, EncoderConfig] = {
    # The notebook's encoder: a small version of "Attention Is All You Need".
    "vanilla": EncoderConfig(norm="post", positions=("sinusoidal",)),
    "tiny": EncoderConfig(),
    "small": EncoderConfig(width=256, heads=8, layers=4, feedforward=1024, positions=("place-value", "relative")),
    "base": EncoderConfig(width=512, heads=8, layers=8, feedforward=2048, positions=("place-value", "relative")),
    # The encoder of the base model in table 3 of the paper.
    "paper": EncoderConfig(width=512, heads=8, layers=6, feedforward=2048, norm="post", positions=("sinusoidal",)),
    # One small looped layer that attends only to neighbouring digits. It learns the operation at one digit position
    # and passes carries on, so it works for numbers of any length.
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
    # Two layers in two or three loops, with place values and their differences: for + and − of bounded length.
    "signed": EncoderConfig(
        width=64, layers=2, loops=3, min_loops=2, feedforward=256, positions=("relative", "place-value"), reach=5
    ),
    # Two layers in two loops, with place values and their differences: for products and expressions.
    "mixing": EncoderConfig(width=128, heads=8, loops=2, positions=("relative", "place-value"), reach=5),
    # One looped layer that marks the operations of an expression and carries out one at a time: for + − × and brackets.
    "rewriting": EncoderConfig(
        kind="rewriting", width=96, layers=1, loops=8, min_loops=5, warm_loops=16, feedforward=512, reach=4
    ),
}
