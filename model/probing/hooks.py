"""Reads and edits hidden states with hooks on the running encoder, so the states are those of the real computation.

A state is named by loop and layer. Loop 0, layer 0 is the sum of token and position embeddings. Loop r, layer l is the
output of layer l in the r-th run of the block.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from model.network.encoder import Encoder, SelfAttention

T = TypeVar("T")

Edit = Callable[[Tensor, int], Tensor]
"""Maps states [n, width, d] and their loop (0 for the embeddings) to new states."""


class State(NamedTuple):
    """Name of a hidden state."""

    loop: int
    layer: int


EMBEDDED = State(0, 0)

MOST_LOOPS = 6


def states_of(encoder: Encoder, slots: int, layers: Sequence[int] = (), loops: Sequence[int] = ()) -> list[State]:
    """The embeddings, and the states at the given layers and loops, for an answer of `slots` slots.

    Empty `layers` selects all layers. Empty `loops` selects all loops, or six including the first and the last if there
    are more.
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
    """At most `most` of the values, evenly spaced, with the first and the last; if `most` is 1, only the last."""
    if len(values) <= most:
        return [*values]
    last = len(values) - 1
    return [values[last - round(last * step / max(1, most - 1))] for step in reversed(range(most))]


@contextmanager
def recorded(encoder: Encoder, wanted: Sequence[State]) -> Iterator[dict[State, Tensor]]:
    """Collects the states [n, width, d] of the forward pass in this block.

    The pass has to compute all tokens (`last`). Otherwise the final layer's last state is truncated.
    """
    found: dict[State, Tensor] = {}
    calls = [0] * len(encoder.layers)

    def keep_input(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        if not calls[0] and EMBEDDED in wanted:
            found[EMBEDDED] = arguments[0]

    def keep_output(number: int, layer: nn.Module, arguments: Any, output: Tensor) -> None:
        calls[number] += 1
        state = State(calls[number], number + 1)
        if state in wanted:
            found[state] = output

    with ExitStack() as hooks:
        hooks.enter_context(encoder.layers[0].register_forward_pre_hook(keep_input))
        for number, layer in enumerate(encoder.layers):
            hooks.enter_context(layer.register_forward_hook(partial(keep_output, number)))
        yield found


@contextmanager
def edited(encoder: Encoder, state: State, edit: Edit) -> Iterator[None]:
    """Apply `edit` to a state in every forward pass in this block.

    For `EMBEDDED`, it changes the token embeddings before positions are added; they are the input of every loop. Loop 0
    with another layer means that layer's states in every loop.
    """
    if state == EMBEDDED:
        with encoder.tokens.register_forward_hook(lambda module, arguments, output: edit(output, 0)):
            yield
        return
    loop = 0

    def begin(module: nn.Module, arguments: Any) -> None:
        nonlocal loop
        loop = 0

    def change(module: nn.Module, arguments: Any, output: Tensor) -> Tensor | None:
        nonlocal loop
        loop += 1
        return edit(output, loop) if state.loop in (0, loop) else None

    with (
        encoder.register_forward_pre_hook(begin),
        encoder.layers[state.layer - 1].register_forward_hook(change),
    ):
        yield


@contextmanager
def replayed(encoder: Encoder, hidden: Mapping[State, Tensor], until: State) -> Iterator[None]:
    """In the forward pass in this block, layers up to the state `until` return the recorded states in `hidden`.

    States before an edit do not change, so they need not be computed again.
    """
    calls = [0] * len(encoder.layers)

    def replay(number: int, compute: Callable[..., Tensor], *arguments: Any) -> Tensor:
        calls[number] += 1
        state = State(calls[number], number + 1)
        return hidden[state] if state <= until else compute(*arguments)

    for number, layer in enumerate(encoder.layers):
        # Hooks are still called.
        layer.forward = partial(replay, number, layer.forward)
    try:
        yield
    finally:
        for layer in encoder.layers:
            del layer.forward


@contextmanager
def attention_recorded(encoder: Encoder) -> Iterator[list[tuple[State, Tensor]]]:
    """Collects the attention weights [n, heads, queries, keys] of all layers and loops in this block's forward pass."""
    found: list[tuple[State, Tensor]] = []

    def keep(layer: int, attention: SelfAttention, arguments: tuple[Any, ...]) -> None:
        """Computes the weights of the next loop again, because the layer does not return them."""
        hidden, bias, last, sharpness = arguments
        mixed = attention.queries_keys_values(hidden).unflatten(-1, (3, attention.heads, -1))
        queries, keys, _ = mixed.permute(2, 0, 3, 1, 4)
        scores = queries[:, :, -last:] @ keys.transpose(-1, -2) * (attention.scale * sharpness) + bias
        loop = 1 + sum(state.layer == layer for state, _ in found)
        found.append((State(loop, layer), scores.softmax(-1)))

    with ExitStack() as hooks:
        for layer, attention in enumerate(attentions_of(encoder), 1):
            hooks.enter_context(attention.register_forward_pre_hook(partial(keep, layer)))
        yield found


def attentions_of(encoder: Encoder) -> list[SelfAttention]:
    """The attention module of each layer."""
    found = [layer.get_submodule("attention") for layer in encoder.layers]
    return [attention for attention in found if isinstance(attention, SelfAttention)]


def logits_of(encoder: Encoder, ids: Tensor, slots: int) -> Tensor:
    """Logits [n, slots, pieces] of a pass that computes the states of all tokens, without gradients."""
    with torch.inference_mode():
        return encoder(ids, slots, last=ids.shape[1])[:, -slots:]
