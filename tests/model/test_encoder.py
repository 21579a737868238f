import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from model.config.encoder import EncoderConfig
from model.config.presets import ENCODERS
from model.network.encoder import Encoder, SelfAttention
from model.network.parameter_counts import parameter_table
from model.network.positions import TokenPositions
from model.objectives.training_pass import Loops, TrainingPass
from model.tokenizer import TokenLayout
from tests.builders import Built
from tests.tolerances import ROUNDING

LAYOUT = TokenLayout(problem=11, answer=4)
KINDS = [("sinusoidal",), ("learned",), ("place-value",), ("relative",), ("place-value", "relative")]


def encoder(small: Built, **values: object) -> Encoder:
    """A small encoder with random weights everywhere, those that begin at zero included."""
    model = Encoder(EncoderConfig(width=32, heads=4, feedforward=64, **values), small.tokenizer)
    model.initialise(3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            weight += torch.randn(weight.shape, generator=generator) * 0.1
    return model.eval()


def rows_of(small: Built, *problems: str, layout: TokenLayout = LAYOUT) -> torch.Tensor:
    return torch.tensor([small.tokenizer.row(problem, layout) for problem in problems])


def test_attention_is_torchs_own() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(EncoderConfig(width=32, heads=4))
    hidden, bias = torch.randn(5, 9, 32), torch.randn(5, 1, 1, 9)
    queries, keys, values = attention.queries_keys_values(hidden).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
    mixed = scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
    expected = attention.output(mixed.transpose(1, 2).flatten(2))
    assert torch.allclose(attention(hidden, bias, 9, 1.0), expected, atol=ROUNDING)
    assert torch.allclose(attention(hidden, bias, 4, 1.0), expected[:, -4:], atol=ROUNDING)
    sharper = scaled_dot_product_attention(queries, keys, values, attn_mask=bias, scale=2.5 / 8**0.5)
    assert torch.allclose(
        attention(hidden, bias, 9, 2.5), attention.output(sharper.transpose(1, 2).flatten(2)), atol=ROUNDING
    )


def test_a_post_norm_layer_equals_torchs_layer(small: Built) -> None:
    layer = encoder(small, norm="post").layers[0]
    theirs = torch.nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True).eval()
    names = {
        "attention.queries_keys_values.weight": "self_attn.in_proj_weight",
        "attention.queries_keys_values.bias": "self_attn.in_proj_bias",
        "attention.output": "self_attn.out_proj",
        "attention_norm": "norm1",
        "feedforward_norm": "norm2",
        "expand": "linear1",
        "contract": "linear2",
    }
    state = {}
    for name, value in layer.state_dict().items():
        ours = next(key for key in names if name.startswith(key))
        state[name.replace(ours, names[ours])] = value
    theirs.load_state_dict(state)
    hidden = torch.randn(3, 7, 32)
    assert torch.allclose(layer(hidden, torch.zeros(3, 1, 1, 7), 7, 1.0), theirs(hidden), atol=ROUNDING)


@pytest.mark.parametrize("positions", KINDS)
def test_computing_the_slots_alone_in_the_final_layer_changes_nothing(small: Built, positions: tuple[str, ...]) -> None:
    model = encoder(small, loops=2, positions=positions)
    ids = rows_of(small, "1+2+3+4", "99+98+97+96")
    seen: list[torch.Tensor] = []
    final = model.layers[-1]
    short = final.forward

    def whole(hidden: torch.Tensor, bias: torch.Tensor, last: int, sharpness: float) -> torch.Tensor:
        width = hidden.shape[1]
        everything = model.bias(model.token_positions(ids, 4)) if model.bias else bias
        if model.bias:
            everything = everything + torch.where(ids == model.pad, -1e4, 0.0)[:, None, None, :]
        seen.append(short(hidden, everything, width, sharpness))
        return seen[-1][:, -last:]

    final.forward = whole
    full = model(ids, 4)
    final.forward = short
    assert seen[-1].shape[1] == LAYOUT.width
    assert torch.allclose(model(ids, 4), full, atol=ROUNDING)


@pytest.mark.parametrize("positions", KINDS)
def test_padding_is_never_read(small: Built, positions: tuple[str, ...]) -> None:
    model = encoder(small, positions=positions)
    wide = TokenLayout(problem=16, answer=4)
    assert torch.allclose(
        model(rows_of(small, "12+3"), 4), model(rows_of(small, "12+3", layout=wide), 4), atol=ROUNDING
    )


@pytest.mark.parametrize("positions", KINDS)
def test_the_place_of_a_digit_matters(small: Built, positions: tuple[str, ...]) -> None:
    model = encoder(small, positions=positions)
    assert not torch.allclose(model(rows_of(small, "12+3"), 4), model(rows_of(small, "21+3"), 4), atol=1e-3)


@pytest.mark.parametrize("positions", [("place-value",), ("relative",), ("place-value", "relative")])
def test_places_alone_count_and_not_the_order_in_which_digits_are_written(
    small: Built, monkeypatch: pytest.MonkeyPatch, positions: tuple[str, ...]
) -> None:
    model = encoder(small, layers=2, positions=positions)
    ids = rows_of(small, "12+345", "9+78")
    # Every token of the problem elsewhere, as if each number were written from the units on, or in any other way.
    problem, width = LAYOUT.width - LAYOUT.answer, LAYOUT.width
    shuffled = torch.randperm(problem, generator=torch.Generator().manual_seed(1))
    written = torch.cat([shuffled, torch.arange(problem, width)])
    positions_written = TokenPositions(*(kind[:, written] for kind in model.token_positions(ids, 4)))
    expected = model(ids, 4)
    monkeypatch.setattr(model.token_positions, "forward", lambda *_: positions_written)
    assert torch.allclose(model(ids[:, written], 4), expected, atol=ROUNDING)


def test_hidden_digits_far_away_change_nothing_until_loops_pass_it_on(small: Built) -> None:
    model = encoder(small, layers=1, positions=("relative",), reach=1, far="hidden")
    layout = TokenLayout(problem=9, answer=5)
    one, other = rows_of(small, "1234+1111", "9234+1111", layout=layout)
    near, far = (model(torch.stack([one, other]), 5, loops=loops).detach() for loops in (1, 4))
    # The slots from the right: units, tens, … ; the changed digit stands at place 4.
    # The two rows of one product may be rounded otherwise, by some units in the last place of logits of about 1.
    assert torch.allclose(near[0, -1], near[1, -1], atol=ROUNDING)
    assert torch.allclose(near[0, -2], near[1, -2], atol=ROUNDING)
    assert not torch.allclose(near[0, -3], near[1, -3], atol=1e-3)
    assert not torch.allclose(far[0, -1], far[1, -1], atol=1e-3)


def test_an_offset_changes_only_place_value_positions(small: Built) -> None:
    ids, offset = rows_of(small, "12+3"), torch.tensor([0.5])
    by_place, by_difference = encoder(small), encoder(small, positions=("relative",))

    def moved(model: Encoder) -> torch.Tensor:
        return model.head(model.iterate(model.embed(ids, 4, offset=offset), 1, 4))

    assert not torch.allclose(by_place(ids, 4), moved(by_place), atol=1e-3)
    assert torch.equal(by_difference(ids, 4), moved(by_difference))


def test_equal_seeds_give_equal_weights_and_other_seeds_do_not(small: Built) -> None:
    one, same, other = encoder(small), encoder(small), encoder(small)
    other.initialise(4)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.tokens.weight, other.tokens.weight)


def test_more_loops_use_the_same_weights_and_compute_something_else(small: Built) -> None:
    one, three = encoder(small, loops=1), encoder(small, loops=3)
    ids = rows_of(small, "12+3")
    assert one.parameter_count() == three.parameter_count()
    assert torch.equal(one(ids, 4, loops=3), three(ids, 4))
    assert not torch.allclose(one(ids, 4), three(ids, 4), atol=1e-3)


def test_warm_loops_compute_the_same_and_have_no_gradient(small: Built) -> None:
    model, ids = encoder(small, layers=2, loops=2), rows_of(small, "12+3")
    forward = TrainingPass(model, torch.bfloat16)
    warm = forward(ids, 4, model.token_positions(ids, 4), 4, Loops(2, warm=3))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(warm, model(ids, 4, loops=5))
    warm.sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in model.layers.parameters())


def test_an_encoder_that_moves_carries_takes_a_loop_for_each_slot(small: Built) -> None:
    model, ids = encoder(small, loops=3, carry_loops=3), rows_of(small, "12+3")
    assert torch.equal(model(ids, 4), model(ids, 4, loops=7))


@pytest.mark.parametrize("preset", [name for name, config in ENCODERS.items() if config.kind == "answers"])
def test_the_parameter_table_is_the_papers_arithmetic(small: Built, preset: str) -> None:
    config, pieces = ENCODERS[preset], small.tokenizer.size
    width, inner = config.width, config.feedforward
    found = parameter_table(config, small.tokenizer)
    assert found["attention"] == config.layers * 4 * (width * width + width)
    assert found["feed-forward"] == config.layers * (2 * width * inner + width + inner)
    assert found["token embedding"] == pieces * width
    assert found["output layer"] == pieces * (width + 1)
    assert sum(found.values()) == Encoder(config, small.tokenizer).parameter_count()
    # In millions, what each is said to have.
    sizes = {"tiny": 0.4, "small": 3, "base": 25, "paper": 18.9}
    assert sum(found.values()) / 1e6 == pytest.approx(sizes.get(preset, sum(found.values()) / 1e6), rel=0.07)
