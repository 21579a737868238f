"""Number of weights of each part of an encoder."""

from collections.abc import Callable

from model.config.encoder import EncoderConfig
from model.network.encoder import Encoder
from model.network.rewriting.encoder import RewritingEncoder
from model.tokenizer import Tokenizer

# The first match applies. The unit comes first, because its weights include a norm and an attention layer.
_PARTS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("symbolic unit", lambda name: name.startswith("unit.")),
    ("token embedding", lambda name: name.startswith(("tokens", "contents", "flags", "slots", "units"))),
    ("positions", lambda name: name.startswith(("positions", "bias", "sharpness")) or name.endswith("_scores")),
    ("attention", lambda name: ".attention." in name or ".queries_keys_values." in name or ".output." in name),
    ("feed-forward", lambda name: ".expand." in name or ".contract." in name),
    ("norms", lambda name: "norm" in name),
    ("output layer", lambda name: "head" in name),
)


def parameter_table(config: EncoderConfig, tokenizer: Tokenizer) -> dict[str, int]:
    """Number of weights by part; the parts add up to the total."""
    encoder = (RewritingEncoder if config.kind == "rewriting" else Encoder)(config, tokenizer)
    counts = dict.fromkeys((part for part, _ in _PARTS[config.unit == "none" :]), 0)
    for name, weight in encoder.named_parameters():
        part = next(part for part, holds in _PARTS if holds(name))
        counts[part] += weight.numel()
    return counts
