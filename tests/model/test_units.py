from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import one_hot

from model.config.encoder import EncoderConfig
from model.config.evaluation import Decoding
from model.evaluation.decoding import logits_of_slots
from model.evaluation.predictor import TrainedEncoder
from model.network.encoder import Encoder
from model.network.parameter_counts import parameter_table
from model.network.symbolic.modular_arithmetic import PRIMES
from model.network.symbolic.nalu import Nac, Nalu
from model.network.symbolic.unit import OPERATIONS, PrimesResult, Reading, ResidueResult, values_of
from model.runs.checkpoints import Checkpoints
from model.runs.pretrained import shipped_runs
from model.runs.run_config import RunConfig, load_run
from model.tokenizer import TokenLayout
from model.training.optimizer import build_optimizers
from model.training.trainer import train
from storage.errors import UserError
from tests.builders import TINY_TRAINING, TOKENIZERS, Built, build_small
from tests.model.runs import job_of, losses, same_bits
from tests.model.workers import train_with
from tests.tolerances import ROUNDING

LAYOUT = TokenLayout(problem=11, answer=4)
UNITS = ("residue", "primes", "nalu")
SHAPES: list[dict[str, object]] = [
    {"layers": 2, "positions": ("relative", "place-value"), "loops": 2},
    {"layers": 1, "positions": ("relative",), "loops": 3},
    {"layers": 2, "positions": ("sinusoidal",), "norm": "post"},
]


def encoder(small: Built, unit: str = "none", **shape: object) -> Encoder:
    """A small encoder as training begins with it."""
    model = Encoder(EncoderConfig(width=32, heads=4, feedforward=64, unit=unit, **shape), small.tokenizer)
    model.initialise(3)
    return model


def rows_of(small: Built, *problems: str) -> torch.Tensor:
    return torch.tensor([small.tokenizer.row(problem, LAYOUT) for problem in problems])


def read_as(operation: str, first: int, second: int, places: int) -> Reading:
    """What a unit reads that is certain of everything."""
    numbers = [[int(digit) for digit in f"{number:0{places}d}"[::-1]] for number in (first, second)]
    asked = one_hot(torch.tensor([OPERATIONS.index(operation)]), 3).float()
    return Reading(one_hot(torch.tensor([numbers]), 10).float(), torch.zeros(1, 2, places, 1), asked)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_an_encoder_begins_as_the_one_without_the_unit(
    small: Built, unit: str, shape: dict[str, object], precision: torch.dtype
) -> None:
    plain, model, ids = encoder(small, **shape), encoder(small, unit, **shape), rows_of(small, "12+3", "99+98+97")
    weights = model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in plain.state_dict().items())
    with torch.autocast("cpu", precision, enabled=precision is not torch.float32):
        assert torch.equal(model(ids, 4), plain(ids, 4))
        assert torch.equal(model(ids, 4, loops=3), plain(ids, 4, loops=3))


@pytest.mark.parametrize("unit", UNITS)
def test_the_gate_learns_in_the_first_step_and_all_else_from_then_on(small: Built, unit: str) -> None:
    model, ids = encoder(small, unit, layers=2, loops=2), rows_of(small, "12+34", "7+8", "23+9")
    optimizers = build_optimizers(model, TINY_TRAINING)
    for step in range(2):
        model(ids, 4).log_softmax(-1)[..., 5].sum().backward()
        for name, weight in model.unit.named_parameters():
            assert weight.grad is not None
            assert weight.grad.any() == (step > 0 or name == "gate"), name
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()


@given(st.sampled_from(OPERATIONS), st.integers(1, 9), st.data())
@settings(max_examples=150, deadline=None)
def test_what_is_read_with_certainty_is_computed_exactly(operation: str, size: int, data: st.DataObject) -> None:
    """Carries and borrows through all places among them: both kinds of numbers are drawn."""
    numbers = st.one_of(st.integers(0, 10**size - 1), st.sampled_from([0, 1, 10**size - 1, 10 ** (size - 1)]))
    first, second = data.draw(numbers), data.draw(numbers)
    slots = 2 * size + 1
    found = ResidueResult()(read_as(operation, first, second, slots), slots)[0]
    expected = {"+": first + second, "-": first - second, "*": first * second}[operation]
    digits = found[1:, :10]
    assert int("".join(map(str, digits.argmax(-1).tolist()))) == abs(expected)
    assert found[0, 10:].argmax() == int(expected < 0)
    assert digits.max(-1).values.min() > 0.99
    assert found[0, 10:].max() > 0.99


@given(st.sampled_from(OPERATIONS), st.integers(0, 10**12), st.integers(0, 10**12))
@settings(max_examples=100, deadline=None)
def test_residues_modulo_small_primes_are_exact_and_tell_the_result(operation: str, first: int, second: int) -> None:
    found = PrimesResult()(read_as(operation, first, second, 13), 3)[0]
    expected = {"+": first + second, "-": first - second, "*": first * second}[operation]
    assert torch.equal(found[0], found[2])
    told = found[0].split(PRIMES)
    assert [residue.argmax().item() for residue in told] == [expected % prime for prime in PRIMES]
    assert min(residue.max().item() for residue in told) > 0.99


def test_an_uncertain_digit_leaves_the_residues_as_uncertain() -> None:
    digits = torch.zeros(1, 2, 1, 10)
    digits[0, 0, 0, 4], digits[0, 0, 0, 7], digits[0, 1, 0, 6] = 0.75, 0.25, 1.0
    for asked, results in (("+", (10, 13)), ("-", (-2, 1)), ("*", (24, 42))):
        reading = Reading(digits, torch.zeros(1, 2, 1, 1), one_hot(torch.tensor([OPERATIONS.index(asked)]), 3).float())
        for prime, told in zip(PRIMES, PrimesResult()(reading, 1)[0, 0].split(PRIMES), strict=True):
            expected = torch.zeros(prime)
            for result, share in zip(results, (0.75, 0.25), strict=True):
                expected[result % prime] += share
            assert torch.allclose(told, expected, atol=ROUNDING)


@given(st.integers(0, 10**5), st.integers(0, 10**5))
@settings(max_examples=50, deadline=None)
def test_a_saturated_accumulator_adds_and_subtracts_exactly(first: int, second: int) -> None:
    accumulator = Nac(2, 2)
    with torch.no_grad():
        accumulator.slope.copy_(torch.tensor([[30.0, 30.0], [30.0, -30.0]]))
        accumulator.presence.fill_(30.0)
    values = values_of(read_as("+", first, second, 6).digits)
    # Whole numbers below 2²⁴ are exact in float32, added in any order.
    assert values.tolist() == [[first, second]]
    # A vectorised tanh(30) may be a last bit below 1.
    assert accumulator(values)[0].tolist() == pytest.approx([first + second, first - second], abs=0.1)


def test_a_saturated_baseline_multiplies_where_its_gate_says_so() -> None:
    unit = Nalu(2, 1)
    with torch.no_grad():
        unit.accumulator.slope.fill_(30.0)
        unit.accumulator.presence.fill_(30.0)
        unit.gate.weight.copy_(torch.tensor([[0.0, 0.0, 60.0, 0.0, -60.0]]))
        unit.gate.bias.zero_()
    values = torch.tensor([[12.0, 34.0]]).expand(2, -1)
    found = unit(values, torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    # Gates of sigmoid(30) and powers by logarithms in float32, rounded to some 1e-6; another operation is off by 10 %.
    assert found[:, 0].tolist() == pytest.approx([46.0, 408.0], rel=1e-4)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_left_out_it_computes_what_the_encoder_without_it_does(
    small: Built, unit: str, shape: dict[str, object]
) -> None:
    plain, model, ids = encoder(small, **shape), encoder(small, unit, **shape), rows_of(small, "12+3", "9+8")
    with torch.no_grad():
        model.unit.gate.fill_(0.5)
    assert not torch.allclose(model(ids, 4), plain(ids, 4), atol=1e-3)
    assert torch.equal(logits_of_slots(model, ids, 4, Decoding(unit="off")), plain(ids, 4))


def test_padding_is_never_read(small: Built) -> None:
    model, wide = encoder(small, "residue", layers=2), TokenLayout(problem=16, answer=4)
    with torch.no_grad():
        model.unit.gate.fill_(0.5)
    row = torch.tensor([small.tokenizer.row("12+3", wide)])
    assert torch.allclose(model(rows_of(small, "12+3"), 4), model(row, 4), atol=ROUNDING)


@pytest.mark.parametrize("unit", UNITS)
def test_numbers_of_any_length_are_computed_with(small: Built, unit: str) -> None:
    model, layout = encoder(small, unit, positions=("relative",)), TokenLayout(problem=101, answer=60)
    with torch.no_grad():
        model.unit.gate.fill_(0.5)
    rows = torch.tensor([small.tokenizer.row(f"{'9' * 50}+{'9' * 50}", layout), small.tokenizer.row("1+2", layout)])
    assert model(rows, 60).isfinite().all()


def test_a_run_from_before_there_were_units_loads_and_goes_on(small: Built, tmp_path: Path) -> None:
    whole, part = (job_of(small, tmp_path / name, TINY_TRAINING) for name in ("whole", "part"))
    train(whole)
    train(part, stop=lambda: True)
    values = load_run(part.run).model_dump(mode="json")
    assert values["training"]["encoder"].pop("unit") == "none"
    old = RunConfig.model_validate(values)
    assert old.decides() == part.config.decides()
    train(part)
    assert same_bits(whole, part)


def test_shipped_encoders_have_no_unit_and_none_can_be_switched_off() -> None:
    model = TrainedEncoder.open(shipped_runs()["notebook"])
    assert [solution.answer for solution in model.solve(["12+34+5+6"])] == ["57"]
    with pytest.raises(UserError, match="no symbolic unit"):
        model.solve(["1+2+3+4"], Decoding(unit="off"))


@pytest.mark.parametrize("unit", UNITS)
def test_a_run_with_a_unit_resumes_to_the_bit_and_is_evaluated_with_and_without_it(
    small: Built, tmp_path: Path, unit: str
) -> None:
    spec = TINY_TRAINING.model_copy(
        update={"encoder": TINY_TRAINING.encoder.model_copy(update={"unit": unit, "loops": 2}), "learning_rate": 0.1}
    )
    whole, part = (job_of(small, tmp_path / name, spec) for name in ("whole", "part"))
    train(whole)
    train(part, stop=lambda: True)
    assert Checkpoints(part.run / "checkpoints").index().last.step < spec.steps
    train(part)
    assert same_bits(whole, part)
    model = TrainedEncoder.open(whole.run)
    assert model.encoder.unit.gate.any()
    with_it, without = (model.solve(["12+34"], Decoding(unit=unit)) for unit in ("on", "off"))
    assert with_it[0].confidence != without[0].confidence


@pytest.mark.slow
@pytest.mark.parametrize("unit", UNITS)
def test_two_workers_learn_what_one_does(small: Built, tmp_path: Path, unit: str) -> None:
    encoder = TINY_TRAINING.encoder.model_copy(update={"unit": unit})
    spec = TINY_TRAINING.model_copy(update={"encoder": encoder, "precision": "float32"})
    one, two = (job_of(small, tmp_path / name, spec) for name in ("one", "two"))
    train_with(one, 1)
    train_with(two, 2)
    # Sums in another order round otherwise, and products of many points are sensitive to it.
    close = 1e-3 if unit == "primes" else 1e-4
    assert losses(two) == [(step, pytest.approx(loss, rel=close)) for step, loss in losses(one)]


def test_a_unit_needs_a_token_for_each_digit(tmp_path: Path) -> None:
    built = build_small(tmp_path, tokens=TOKENIZERS["pairs"])
    with pytest.raises(UserError, match="digit"):
        encoder(built, "residue")


def test_the_parameter_table_tells_of_a_unit_where_there_is_one(small: Built) -> None:
    plain, model = encoder(small), encoder(small, "residue")
    found = parameter_table(model.config, small.tokenizer)
    assert found["symbolic unit"] == model.parameter_count() - plain.parameter_count()
    assert sum(found.values()) == model.parameter_count()
    assert "symbolic unit" not in parameter_table(plain.config, small.tokenizer)
