"""A training step on a GPU against its peers, and the share of the GPU's bfloat16 peak that it reaches.

`python -m tests.benchmarks.gpu` is a plain process: it needs torch, and transformers for BERT, no Ray or Prefect. All
take fused AdamW in bfloat16, on the same rows; each is timed as it is and compiled, by turns, and the faster counts.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from model.config.encoder import EncoderConfig
from model.config.presets import ENCODERS
from model.network.compilation import compile_layers
from model.network.encoder import Encoder
from model.network.flops import training_flops
from model.tokenizer import TokenLayout
from model.training.hardware import peak_flops
from pipelines.generation.generate import sample_rows
from pipelines.problems.components import components
from pipelines.spec.presets import CORPORA
from pipelines.tokens.encode import encode_rows
from tests.benchmarks.tokenizers import digit_tokenizer
from tests.benchmarks.torch_encoder import TorchEncoder

_STEPS, _TURNS = 20, 5
_DEVICE = torch.device("cuda")


@dataclass(frozen=True)
class Shape:
    """An encoder, and what it is fed."""

    name: str
    config: EncoderConfig
    corpus: str
    layout: TokenLayout
    batch: int


_SHAPES = (
    Shape("the default, notebook's rows", EncoderConfig(), "notebook", TokenLayout(problem=11, answer=4), 8_192),
    Shape("base, sums of 20 digits", ENCODERS["base"], "addition", TokenLayout(problem=83, answer=22), 1_024),
    Shape("paper, sums of 20 digits", ENCODERS["paper"], "addition", TokenLayout(problem=83, answer=22), 1_024),
)


class Bert(nn.Module):
    """Hugging Face's BERT, without dropout."""

    def __init__(self, config: EncoderConfig, pieces: int, width: int, slots: int) -> None:
        from transformers import BertConfig, BertModel

        super().__init__()
        self.slots = slots
        bert = BertConfig(
            vocab_size=pieces, hidden_size=config.width, num_hidden_layers=config.layers, hidden_act="relu",
            num_attention_heads=config.heads, intermediate_size=config.feedforward, max_position_embeddings=width,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        self.bert, self.head = BertModel(bert, add_pooling_layer=False), nn.Linear(config.width, pieces)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [n, slots, pieces] of the slots."""
        return self.head(self.bert(ids).last_hidden_state[:, -self.slots :])


class Ours(nn.Module):
    """The encoder, asked for the slots of one layout."""

    def __init__(self, config: EncoderConfig, slots: int) -> None:
        super().__init__()
        self.slots, self.encoder = slots, Encoder(config, digit_tokenizer())
        self.encoder.initialise(0)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [n, slots, pieces] of the slots."""
        return self.encoder(ids, self.slots)


def _step(model: nn.Module, ids: Tensor, slots: int) -> Callable[[], None]:
    model.to(_DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        """One optimizer step."""
        with torch.autocast("cuda", torch.bfloat16):
            logits = model(ids)
        cross_entropy(logits.float().flatten(0, 1), ids[:, -slots:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _seconds(step: Callable[[], None]) -> float:
    """Of one step."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(_STEPS):
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / _STEPS


def _measure(shape: Shape) -> None:
    """Print the rates of ours and of the peers, timed by turns."""
    config, slots = shape.config, shape.layout.answer
    tokenizer, spec = digit_tokenizer(), CORPORA[shape.corpus]
    table, _ = sample_rows(spec, components(spec)[0], shape.batch)
    ids = torch.from_numpy(encode_rows(table, tokenizer, shape.layout)).long().to(_DEVICE)
    width, steps = ids.shape[1], dict[tuple[str, str], Callable[[], None]]()
    for how in ("as it is", "compiled"):
        ours = Ours(config, slots)
        peers = {kind.__name__: kind(config, tokenizer.size, width, slots) for kind in (TorchEncoder, Bert)}
        if how == "compiled":
            compile_layers(ours.encoder.layers)
            for peer in peers.values():
                peer.compile()
        for name, model in {"ours": ours, **peers}.items():
            steps[name, how] = _step(model, ids, slots)
            _seconds(steps[name, how])
    times = {key: list[float]() for key in steps}
    for _ in range(_TURNS):
        for key, step in steps.items():
            times[key].append(_seconds(step))
    rates = {key: shape.batch / statistics.median(found) for key, found in times.items()}
    best = {name: max((rate, how) for (other, how), rate in rates.items() if other == name) for name, _ in rates}
    flops = training_flops(config, tokenizer.size, width, slots, config.loops_of(slots))
    share = best["ours"][0] * flops / peak_flops(_DEVICE, torch.bfloat16)
    print(f"{shape.name}: width {config.width}, {config.layers} layers, batch {shape.batch}, {width} tokens")
    for (name, how), rate in rates.items():
        print(f"  {name} {how}: {rate:,.0f} rows/s")
    for peer in ("TorchEncoder", "Bert"):
        print(f"  ours against {peer}, each at its best: {best['ours'][0] / best[peer][0]:.2f} ×")
    print(f"  share of the peak: {share:.1%}", flush=True)


def main() -> None:
    """Measure all shapes, or those whose names begin with an argument."""
    if not torch.cuda.is_available():
        sys.exit("there is no GPU here")
    torch.set_float32_matmul_precision("high")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    for shape in _SHAPES:
        if not sys.argv[1:] or shape.name.startswith(tuple(sys.argv[1:])):
            _measure(shape)


if __name__ == "__main__":
    main()
