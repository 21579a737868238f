"""The hidden states of an encoder, by hooks: the encoder itself runs, so what is seen is what it computes.

A state is named by loop and layer: loop 0, layer 0 are the embeddings with their positions; loop r, layer l is what
layer l leaves on the r-th run of the block.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from model.network.encoder import Encoder, SelfAttention

T = TypeVar("T")

Edit = Callable[[Tensor, int], Tensor]
"""New states [n, width, d] for old ones, in a loop; of the embeddings that is 0."""


class State(NamedTuple):
    """Where in the encoder a state stands."""

    loop: int
    layer: int


EMBEDDED = State(0, 0)

MOST_LOOPS = 6


def states_of(encoder: Encoder, slots: int, layers: Sequence[int] = (), loops: Sequence[int] = ()) -> list[State]:
    """The states of an answer of `slots` at some layers and loops, or all of them; the embeddings always.

    Where the block runs often, six loops are taken, the first and the last among them, if none are named.
    """
    last = encoder.config.loops_of(slots)
    if not loops:
        loops = spread(range(1, last + 1), MOST_LOOPS)
    every = [State(loop, layer) for loop in range(1, last + 1) for layer in range(1, encoder.config.layers + 1)]
    return [
        EMBEDDED,
        *(state for state in every if (not layers or state.layer in layers) and (not loops or state.loop in loops)),
    ]


def spread(values: Sequence[T], most: int) -> list[T]:
    """At most so many of the values, evenly spread, the first and the last among them; of one the last."""
    if len(values) <= most:
        return [*values]
    last = len(values) - 1
    return [values[last - round(last * step / max(1, most - 1))] for step in reversed(range(most))]


@contextmanager
def recorded(encoder: Encoder, wanted: Sequence[State]) -> Iterator[dict[State, Tensor]]:
    """The states [n, width, d] of the pass that is made inside; ask it for all tokens (`asked`), or the last is cut."""
    found: dict[State, Tensor] = {}
    calls = [0] * len(encoder.layers)

    def embedded(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        """The first layer's first input."""
        if not calls[0] and EMBEDDED in wanted:
            found[EMBEDDED] = arguments[0]

    def after(number: int) -> Callable[..., None]:
        """Keeps what a layer leaves."""

        def keep(module: nn.Module, arguments: Any, output: Tensor) -> None:
            """Of each run of the block."""
            calls[number] += 1
            state = State(calls[number], number + 1)
            if state in wanted:
                found[state] = output

        return keep

    handles = [encoder.layers[0].register_forward_pre_hook(embedded)]
    handles += [layer.register_forward_hook(after(number)) for number, layer in enumerate(encoder.layers)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def edited(encoder: Encoder, state: State, edit: Edit) -> Iterator[None]:
    """Let `edit` change a state in every pass that is made inside.

    Of `EMBEDDED` these are the tokens' embeddings alone, before positions are added: they go into every loop. Of loop 0
    and another layer, that layer's states in every loop.
    """
    if state == EMBEDDED:
        handles = [encoder.tokens.register_forward_hook(lambda module, arguments, output: edit(output, 0))]
    else:
        calls = [0]

        def begins(module: nn.Module, arguments: Any) -> None:
            """A new pass."""
            calls[0] = 0

        def change(module: nn.Module, arguments: Any, output: Tensor) -> Tensor | None:
            """The run of the block that is meant."""
            calls[0] += 1
            return edit(output, calls[0]) if state.loop in (0, calls[0]) else None

        handles = [
            encoder.register_forward_pre_hook(begins),
            encoder.layers[state.layer - 1].register_forward_hook(change),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replayed(encoder: Encoder, seen: Mapping[State, Tensor], until: State) -> Iterator[None]:
    """Let the layers up to a state give, in the pass that is made inside, what they gave in the one that `seen` is of.

    Nothing before an edit changes: so it needn't be computed again.
    """
    calls = [0] * len(encoder.layers)

    def giving(number: int, compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """What a layer gives, known or computed."""

        def give(*arguments: Any) -> Tensor:
            """On the next run of the block."""
            calls[number] += 1
            state = State(calls[number], number + 1)
            return seen[state] if state <= until else compute(*arguments)

        return give

    for number, layer in enumerate(encoder.layers):
        # Hooks are called all the same.
        layer.forward = giving(number, layer.forward)
    try:
        yield
    finally:
        for layer in encoder.layers:
            del layer.forward


@contextmanager
def attention_recorded(encoder: Encoder) -> Iterator[list[tuple[State, Tensor]]]:
    """The attention weights [n, heads, queries, keys] of every layer and loop of the pass that is made inside."""
    found: list[tuple[State, Tensor]] = []

    def before(number: int) -> Callable[..., None]:
        """Computes a layer's weights anew from what it is given."""

        def keep(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            """Of each run of the block."""
            assert isinstance(module, SelfAttention)
            loop = 1 + sum(state.layer == number + 1 for state, _ in found)
            found.append((State(loop, number + 1), attention_weights(module, *arguments)))

        return keep

    handles = [
        attention.register_forward_pre_hook(before(number)) for number, attention in enumerate(attentions_of(encoder))
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def attentions_of(encoder: Encoder) -> list[SelfAttention]:
    """The attention of each layer."""
    found = [layer.get_submodule("attention") for layer in encoder.layers]
    return [attention for attention in found if isinstance(attention, SelfAttention)]


def attention_weights(attention: SelfAttention, hidden: Tensor, bias: Tensor, last: int, sharpness: float) -> Tensor:
    """What `attention` weighs its values by, [n, heads, last, width], from its own arguments."""
    mixed = attention.queries_keys_values(hidden).unflatten(-1, (3, attention.heads, -1))
    queries, keys, _ = mixed.permute(2, 0, 3, 1, 4)
    scores = queries[:, :, -last:] @ keys.transpose(-1, -2) * (attention.scale * sharpness) + bias
    return scores.softmax(-1)


def logits_of(encoder: Encoder, ids: Tensor, slots: int) -> Tensor:
    """The logits [n, slots, pieces] of a pass that computes every token's state, without gradients."""
    with torch.inference_mode():
        return encoder(ids, slots, asked=ids.shape[1])[:, -slots:]
