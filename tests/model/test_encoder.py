import torch
from torch.nn.functional import scaled_dot_product_attention

from model.config import EncoderConfig
from model.encoder import Encoder, SelfAttention
from model.tokenizer import TokenLayout
from tests.builders import Built

LAYOUT = TokenLayout(problem=11, answer=4)


def encoder(small: Built, **values: int) -> Encoder:
    model = Encoder(EncoderConfig(width=32, heads=4, feedforward=64, **values), small.tokenizer, LAYOUT)
    model.initialise(3)
    return model.eval()


def test_attention_is_torchs_own() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(EncoderConfig(width=32, heads=4))
    hidden, bias = torch.randn(5, 9, 32), torch.randn(5, 1, 1, 9)
    queries, keys, values = attention.queries_keys_values(hidden).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
    mixed = scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
    expected = attention.output(mixed.transpose(1, 2).flatten(2))
    assert torch.allclose(attention(hidden, bias, 9), expected, atol=1e-5)
    assert torch.allclose(attention(hidden, bias, 4), expected[:, -4:], atol=1e-5)


def test_computing_the_slots_alone_in_the_final_layer_changes_nothing(small: Built) -> None:
    model = encoder(small, loops=2)
    ids = torch.tensor([small.tokenizer.row(problem, LAYOUT) for problem in ("1+2+3+4", "99+98+97+96")])
    seen: list[torch.Tensor] = []
    final = model.layers[-1]
    short = final.forward
    final.forward = lambda hidden, bias, last: seen.append(short(hidden, bias, hidden.shape[1])) or seen[-1][:, -last:]
    full = model(ids)
    final.forward = short
    assert seen[-1].shape[1] == LAYOUT.width
    assert torch.allclose(model(ids), full, atol=1e-5)


def test_padding_is_never_read(small: Built) -> None:
    model = encoder(small)
    wide = TokenLayout(problem=16, answer=4)
    wider = Encoder(model.config, small.tokenizer, wide)
    wider.load_state_dict(model.state_dict())
    rows = [torch.tensor([small.tokenizer.row("12+3", layout)]) for layout in (LAYOUT, wide)]
    assert torch.allclose(model(rows[0]), wider.eval()(rows[1]), atol=1e-5)


def test_the_same_seed_gives_the_same_weights_and_another_others(small: Built) -> None:
    one, same, other = encoder(small), encoder(small), encoder(small)
    other.initialise(4)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.tokens.weight, other.tokens.weight)


def test_more_loops_use_the_same_weights(small: Built) -> None:
    assert encoder(small, loops=1).parameter_count() == encoder(small, loops=3).parameter_count()
