"""Edits of hand-made models, which use known features."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from model.config.encoder import EncoderConfig
from model.evaluation.predictor import TrainedEncoder
from model.network.encoder import Encoder
from model.probing.attention import ROLES, attended
from model.probing.causal import interventions
from model.probing.causal.counterfactuals import carry_pairs, digit_pairs
from model.probing.causal.interventions import Outcome, ablate_heads, ablated, move_digits, patch_carries
from model.probing.geometry import circle
from model.probing.hooks import EMBEDDED, State, attentions_of
from model.probing.labels import Problem, value_of
from model.probing.token_dataset import batches_of
from model.runs.pretrained import shipped_runs
from model.runs.run_config import load_run, run_tokenizer
from model.tokenizer import BLANK, DIGITS, PAD, Tokenizer

FOLDER = shipped_runs()["addition"]
WIDTH = 32
PROBLEMS = [Problem(f"{number}+0") for number in range(10, 310)]


def one_hot() -> Tensor:
    return torch.eye(10, WIDTH)


def on_a_circle() -> Tensor:
    return torch.nn.functional.pad(torch.from_numpy(circle(np.arange(10), 10)).float(), (0, WIDTH - 2))


def copying(digits: Tensor) -> TrainedEncoder:
    """An encoder that answers every `number+0` correctly: each slot attends to the digit of its column, whose embedding
    is a row of `digits` [10, d], and predicts this digit."""
    config, trained = load_run(FOLDER), TrainedEncoder.open(FOLDER)
    shape = EncoderConfig(width=WIDTH, heads=1, layers=1, feedforward=8, positions=("relative",), reach=1)
    tokenizer: Tokenizer = run_tokenizer(FOLDER, config)
    encoder = Encoder(shape, tokenizer)
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.zero_()
        for norm in (encoder.layers[0].attention_norm, encoder.layers[0].feedforward_norm, encoder.norm):
            norm.weight.fill_(1)
        ids = [tokenizer.id_of(digit) for digit in DIGITS]
        encoder.tokens.weight[ids] = digits
        (attention,) = attentions_of(encoder)
        attention.queries_keys_values.weight[2 * WIDTH :] = torch.eye(WIDTH)
        attention.output.weight.copy_(torch.eye(WIDTH))
        assert encoder.bias
        scores = encoder.bias.scores.weight.view(2 * shape.reach + 6, shape.operands + 1)
        # Attention to the first operand's digit at the same place value, otherwise to tokens such as signs.
        scores[shape.reach + 1, 1] = 60
        scores[2 * shape.reach + 4 :, 0] = 30
        encoder.head.weight[ids] = torch.nn.functional.layer_norm(digits, (WIDTH,))
        encoder.head.bias[tokenizer.id_of(BLANK)] = 5
    model = config.training.model_copy(update={"encoder": shape})
    run = config.model_copy(update={"training": model})
    return TrainedEncoder(run, trained.checkpoint, tokenizer, encoder.eval(), torch.float32)


def moved(digits: Tensor) -> dict[str, Outcome]:
    model = copying(digits)
    pairs = digit_pairs(model, PROBLEMS, model.layout_of(PROBLEMS[0].text))
    assert pairs.count > 100
    found = move_digits(model, pairs, {EMBEDDED: digits.double().numpy()})
    return {each.way: each for each in found if not each.shift}


def test_a_model_with_digits_on_a_circle_follows_the_circle() -> None:
    found = moved(on_a_circle())
    for way in ("digit", "circles", "circle"):
        assert (found[way].predicted, found[way].unchanged, found[way].other, found[way].spilt) == (1, 0, 0, 0)
    assert found["random"].predicted < 0.5
    assert found["rest"].unchanged == 1


def test_a_model_without_a_circle_does_not_follow_it() -> None:
    found = moved(one_hot())
    assert (found["digit"].predicted, found["digit"].spilt) == (1, 0)
    assert (found["circle"].predicted, found["circle"].unchanged) == (0, 1)


def test_without_its_only_head_a_model_answers_nothing_correctly() -> None:
    model = copying(one_hot())
    pairs = digit_pairs(model, PROBLEMS, model.layout_of(PROBLEMS[0].text))
    (found, _) = ablate_heads(model, pairs)
    assert (found.site, found.predicted, found.other) == ("head 0", 0, 1)
    # The hooks are removed.
    assert digit_pairs(model, PROBLEMS, model.layout_of(PROBLEMS[0].text)).count == pairs.count


def test_the_mean_of_a_head_excludes_padding() -> None:
    output, shown = torch.nn.Identity(), torch.tensor([[False, True, True], [True, True, True]])
    values = torch.arange(24.0).reshape(2, 3, 4)
    values[0, 0] = 1e6
    with ablated(output, torch.eye(4)[:, :2], shown):
        left = output(values)
    mean = [(4 + 8 + 12 + 16 + 20) / 5 + column for column in range(2)]
    assert left[..., :2].tolist() == [[pytest.approx(mean)] * 3] * 2
    assert torch.equal(left[..., 2:], values[..., 2:])


def test_heads_are_replaced_by_means_without_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    model = copying(one_hot())
    pairs = digit_pairs(model, PROBLEMS, model.layout_of(PROBLEMS[0].text))
    seen: list[torch.Tensor] = []

    def noted(output: torch.nn.Module, subspace: torch.Tensor, shown: torch.Tensor) -> RemovableHandle:
        seen.append(shown)
        return ablated(output, subspace, shown)

    monkeypatch.setattr(interventions, "ablated", noted)
    [*ablate_heads(model, pairs)]
    padding = torch.from_numpy(pairs.rows.astype(np.int64)) == model.tokenizer.id_of(PAD)
    slots = pairs.layout.answer
    assert padding[:, :-slots].any()
    for shown in seen:
        # The slots of the answer are shown, whatever the row has there.
        assert torch.equal(shown[:, :-slots], ~padding[:, :-slots])
        assert shown[:, -slots:].all()


def test_uniform_attention_excludes_padding() -> None:
    model = copying(one_hot())
    problems = [Problem("7+0"), Problem("12345+0")]
    found = [*attended(model.encoder, problems, batches_of(model, problems))]
    layout = model.layout_of(problems[0].text)
    assert len(problems[0].text) < layout.problem
    for each in found:
        assert each.even[ROLES.index("padding")] == 0
        assert each.even.sum() == pytest.approx(1)


@pytest.fixture(scope="module")
def adder() -> TrainedEncoder:
    return TrainedEncoder.open(FOLDER)


def test_counterfactuals_differ_as_python_computes(adder: TrainedEncoder) -> None:
    chance = np.random.default_rng(0)
    texts = [f"{one}+{other}" for one, other in chance.integers(100, 100_000, (200, 2)).tolist()]
    problems = [Problem(text) for text in texts]
    layout = adder.layout_of(texts[0])
    pieces = adder.tokenizer.pieces()

    def text_of(row: np.ndarray) -> str:
        return "".join(pieces[number] for number in row if not pieces[number].startswith("[")).rstrip("=")

    moves = digit_pairs(adder, problems, layout)
    for row, other, old, new in zip(moves.rows, moves.counterfactual, moves.old, moves.new, strict=True):
        before, after = text_of(row), text_of(other)
        (place,) = [at for at in range(len(before)) if before[at] != after[at]]
        assert (int(before[place]), int(after[place])) == (old, new)
        assert "+0" not in after[:-2]
    carries = carry_pairs(adder, problems, layout)
    assert carries.count > 30
    for number in range(carries.count):
        sides = (carries.rows, carries.counterfactual, carries.donor, carries.same)
        before, after, donor, same = (value_of(text_of(rows[number])) for rows in sides)
        place = layout.width - 1 - int(carries.column[number])
        assert after - before == 10**place
        assert (before // 10**place % 10, after // 10**place % 10) == (carries.old[number], carries.new[number])
        # The donor's digit in that column differs, so its answer digit differs from both; `same` has one carry less.
        assert donor - same == 10**place
        assert (donor - after) % 10**place == 0
        assert donor // 10**place % 10 not in (carries.old[number], carries.new[number])
        digits = [int(pieces[token]) for token in carries.copied[number]]
        assert digits == [donor // 10**place % 10, same // 10**place % 10]


def test_a_carry_patched_into_the_input_arrives_and_a_finished_digit_is_copied(adder: TrainedEncoder) -> None:
    texts = [f"{one}+{other}" for one in range(111, 190, 2) for other in (123, 345, 524, 700)]
    problems = [Problem(text) for text in texts]
    pairs = carry_pairs(adder, problems, adder.layout_of(texts[0])).first(40)
    last = State(adder.encoder.config.loops_of(pairs.layout.answer), 1)
    found = {(each.state, each.site, each.way): each for each in patch_carries(adder, pairs, [EMBEDDED, last])}
    assert found[EMBEDDED, "lower digits", "carry"].predicted == 1
    assert found[EMBEDDED, "lower digits", "same carry"].unchanged == 1
    # A copied digit does not count as a carry.
    for way in ("carry", "same carry"):
        assert (found[last, "own slot", way].copied, found[last, "own slot", way].predicted) == (1, 0)
    assert found[last, "lower slot", "carry"].unchanged == 1
    assert (State(0, 1), "lower digits", "carry") in found
