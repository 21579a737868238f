"""FLOPs of a training step, for the share of the device's peak that a training reaches.

Only the model's matrix products count: the forward pass, and twice as many in the backward pass. The optimizer, the
symbolic unit and all other operations of a step are not included.
"""

from model.config.encoder import EncoderConfig


def training_flops(config: EncoderConfig, outputs: int, width: int, predicted: int, loops: int, warm: int = 0) -> int:
    """FLOPs of the matrix products of a training step, per row of `width` tokens.

    `outputs` is the number of logits for each of the last `predicted` tokens. `loops` counts the runs of the block;
    `warm` counts the runs before them, which have no backward pass.
    """
    d, hidden, total = config.width, config.feedforward, 0
    depth = loops * config.layers
    for layer in range(depth):
        last = predicted if layer == depth - 1 else width
        keys_and_values = width * 3 * d * d
        attention = 2 * last * width * d
        total += keys_and_values + attention + last * (d * d + 2 * d * hidden)
    warmed = warm * config.layers * width * (4 * d * d + 2 * width * d + 2 * d * hidden)
    return 2 * (warmed + 3 * (total + predicted * d * outputs))
