"""Hooks record exactly the states that the encoder computes, and are removed."""

from collections.abc import Iterator

import pytest
import torch

from model.config.encoder import EncoderConfig, Position
from model.network.encoder import Encoder
from model.probing.hooks import (
    EMBEDDED,
    State,
    attention_recorded,
    attentions_of,
    edited,
    logits_of,
    recorded,
    replayed,
    states_of,
)
from model.runs.pretrained import shipped_runs
from model.runs.run_config import load_run, run_tokenizer
from model.tokenizer import Tokenizer, TokenLayout
from tests.tolerances import ROUNDING

FOLDER = shipped_runs()["addition"]
LAYOUT = TokenLayout(problem=9, answer=5)
SHAPES: list[tuple[tuple[Position, ...], str, int]] = [
    (("place-value",), "pre", 1),
    (("sinusoidal",), "post", 1),
    (("relative", "place-value"), "pre", 3),
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return run_tokenizer(FOLDER, load_run(FOLDER))


@pytest.fixture(params=SHAPES, ids=str)
def encoder(tokenizer: Tokenizer, request: pytest.FixtureRequest) -> Iterator[Encoder]:
    positions, norm, loops = request.param
    config = EncoderConfig(width=32, heads=4, layers=2, loops=loops, feedforward=64, norm=norm, positions=positions)
    made = Encoder(config, tokenizer)
    made.initialise(3)
    yield made.eval()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in made.modules())


def ids_of(tokenizer: Tokenizer) -> torch.Tensor:
    return torch.tensor([tokenizer.row(problem, LAYOUT) for problem in ("12+34", "999+1", "7+8")])


def test_recording_changes_no_bit_of_the_pass(encoder: Encoder, tokenizer: Tokenizer) -> None:
    ids, slots = ids_of(tokenizer), LAYOUT.answer
    states = states_of(encoder, slots)
    with recorded(encoder, states) as seen:
        logits = logits_of(encoder, ids, slots)
    with torch.inference_mode():
        assert torch.equal(logits, encoder(ids, slots, last=ids.shape[1])[:, -slots:])
        assert torch.allclose(logits, encoder(ids, slots), atol=ROUNDING)
        last = seen[states[-1]]
        assert torch.equal(encoder.head(encoder.norm(last))[:, -slots:], logits)
    assert list(seen) == sorted(states)
    assert len(states) == 1 + encoder.config.layers * encoder.config.loops
    assert seen[EMBEDDED].shape == (3, LAYOUT.width, 32)


def test_the_recorded_attention_weighs_the_values(encoder: Encoder, tokenizer: Tokenizer) -> None:
    ids, given = ids_of(tokenizer), list[torch.Tensor]()
    handles = [
        attention.output.register_forward_pre_hook(lambda module, arguments: given.append(arguments[0]))
        for attention in attentions_of(encoder)
    ]
    inputs = list[torch.Tensor]()
    handles += [
        attention.queries_keys_values.register_forward_hook(lambda module, arguments, output: inputs.append(output))
        for attention in attentions_of(encoder)
    ]
    with attention_recorded(encoder) as seen:
        logits_of(encoder, ids, LAYOUT.answer)
    for handle in handles:
        handle.remove()
    # The layer's own projection follows that of the recorder.
    for (_, weights), mixed, output in zip(seen, inputs[1::2], given, strict=True):
        values = mixed.unflatten(-1, (3, weights.shape[1], -1)).permute(2, 0, 3, 1, 4)[2]
        assert torch.equal((weights @ values).transpose(1, 2).flatten(2), output)
        assert torch.allclose(weights.sum(-1), torch.ones(()), atol=ROUNDING)
    assert [state for state, _ in seen] == [state for state in states_of(encoder, LAYOUT.answer) if state.layer]


def test_an_edit_changes_its_state_and_no_earlier_one(encoder: Encoder, tokenizer: Tokenizer) -> None:
    ids, slots = ids_of(tokenizer), LAYOUT.answer
    states = states_of(encoder, slots)
    with recorded(encoder, states) as before:
        plain = logits_of(encoder, ids, slots)
    for state in states[1:]:
        with edited(encoder, state, lambda hidden, loop: hidden.flip(-1)), recorded(encoder, states) as after:
            logits_of(encoder, ids, slots)
        for other in states:
            assert torch.equal(before[other], after[other]) == (other < state or other == EMBEDDED), (state, other)
        with edited(encoder, state, lambda hidden, loop: hidden):
            assert torch.equal(logits_of(encoder, ids, slots), plain)


def test_an_edit_of_all_loops_is_made_in_each(encoder: Encoder, tokenizer: Tokenizer) -> None:
    met = list[int]()

    def edit(hidden: torch.Tensor, loop: int) -> torch.Tensor:
        met.append(loop)
        return hidden

    with edited(encoder, State(0, 2), edit):
        logits_of(encoder, ids_of(tokenizer), LAYOUT.answer)
        logits_of(encoder, ids_of(tokenizer), LAYOUT.answer)
    assert met == 2 * list(range(1, encoder.config.loops + 1))


def check_replayed(encoder: Encoder, tokenizer: Tokenizer) -> None:
    """States before an edit are replayed, and later states are computed."""
    ids, slots = ids_of(tokenizer), LAYOUT.answer
    states = states_of(encoder, slots)
    with recorded(encoder, states) as seen:
        logits_of(encoder, ids, slots)
    for state in states:
        with edited(encoder, state, lambda hidden, loop: hidden.flip(0) * 1.5):
            computed = logits_of(encoder, ids, slots)
            with replayed(encoder, seen, state):
                assert torch.equal(logits_of(encoder, ids, slots), computed)
    zeros = {state: torch.zeros_like(values) for state, values in seen.items()}
    with replayed(encoder, zeros, states[-1]):
        known = logits_of(encoder, ids, slots)
    # A kernel may round rows of one product differently.
    assert torch.allclose(known[0], known[1], atol=ROUNDING)
    assert not torch.allclose(known, logits_of(encoder, ids, slots), atol=1e-3)


def test_states_before_an_edit_are_replayed(encoder: Encoder, tokenizer: Tokenizer) -> None:
    check_replayed(encoder, tokenizer)


def test_states_are_replayed_with_a_unit_and_with_more_loops_for_longer_answers(tokenizer: Tokenizer) -> None:
    config = EncoderConfig(
        width=32, heads=4, layers=2, loops=2, carry_loops=1, feedforward=64, positions=("relative",), unit="residue"
    )
    made = Encoder(config, tokenizer)
    made.initialise(3)
    with torch.no_grad():
        made.get_parameter("unit.gate").fill_(0.5)
    check_replayed(made.eval(), tokenizer)
