"""What the rewriting encoder reads of a row, and the targets of its places, against plain Python integers."""

import random
import re

import pytest
import torch

from model.network.rewriting.encoder import EQUAL, GREATER, LESS
from model.network.rewriting.rows import BORDER, EMPTY, OUTSIDE, RowReader
from model.objectives.column_chains import column_chains
from model.tokenizer import MARK, REGISTER, UNMARKED, Tokenizer, TokenLayout
from pipelines.tokens.vocabulary import train_pieces

LAYOUT = TokenLayout(problem=40, answer=16)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_pieces([f"12*3{REGISTER}45={MARK}{UNMARKED}"]))


def operation(rng: random.Random) -> str:
    """A sum, a difference, a step of a product, or a sign, as text."""

    def number(digits: int = 9) -> str:
        return str(rng.choice((0, rng.randrange(10), rng.randrange(10 ** rng.randint(1, digits)))))

    first, second = (rng.choice(("", "-")) + number() for _ in range(2))
    kind = rng.randrange(4)
    if kind == 3:
        return rng.choice((f"({first})", f"-({first})", f"--{number()}"))
    if kind == 2:
        return f"{first}*{second.replace('0', '0', 1)}{REGISTER}{number(11)}"
    return first + "+-"[kind] + second


def parsed(text: str) -> tuple[str, str, str, str]:
    """Sign and digits of both operands, the operator and the register of an operation; '' if there is none."""
    if REGISTER in text:
        text, register = text.split(REGISTER)
    else:
        register = ""
    match = re.fullmatch(r"(-?\d+)([-+*])(-?\d+)", text)
    return (*match.group(1, 2, 3), register) if match else ("", "", text, register)


def rows_of(texts: list[str], tokenizer: Tokenizer) -> torch.Tensor:
    return torch.tensor([tokenizer.row(text, LAYOUT)[: LAYOUT.problem] for text in texts])


def test_fields_are_aligned_at_their_units_and_signs_are_flags(tokenizer: Tokenizer) -> None:
    rng = random.Random(1)
    texts = [operation(rng) for _ in range(500)]
    found = RowReader(tokenizer).operations(rows_of(texts, tokenizer))
    for text, fields, flags, places in zip(
        texts, found.fields, found.flags.tolist(), found.places.tolist(), strict=True
    ):
        first, operator, second, register = parsed(text)
        minuses = second.count("-")
        for digits, field in zip((first, second, register), fields.tolist(), strict=True):
            digits = re.sub(r"\D", "", digits)
            assert [field[0], field[places + 1]] == [BORDER, BORDER]
            assert all(content == OUTSIDE for content in field[places + 2 :])
            expected = [int(digit) for digit in reversed(digits)]
            assert field[1 : places + 1] == expected + [EMPTY] * (places - len(digits))
        kind = "+-*".index(operator) if operator else (1 if minuses == 2 else 3)
        assert flags == [int("-" in first), 2 + kind, 6 + int(minuses > 0)]


def test_places_have_room_for_every_result(tokenizer: Tokenizer) -> None:
    texts = ["999+999", "999*9:999", "99*9:999", "1*123456:0", "999--999", "0*0:0", "--7"]
    found = RowReader(tokenizer).operations(rows_of(texts, tokenizer))
    needed = [4, 5, 5, 7, 4, 2, 1]
    assert all(places >= need for places, need in zip(found.places.tolist(), needed, strict=True))


def test_chains_are_those_of_written_arithmetic(tokenizer: Tokenizer) -> None:
    rng = random.Random(2)
    texts = [operation(rng) for _ in range(500)]
    operations = RowReader(tokenizer).operations(rows_of(texts, tokenizer))
    found = column_chains(operations)
    for row, text in enumerate(texts):
        first, operator, second, register = parsed(text)
        places = int(operations.places[row])
        negative = first.count("-") + second.count("-") + (operator == "-")
        a, b, r = (re.sub(r"\D", "", digits) or "0" for digits in (first, second, register))
        chains = found.chains[row, :places].tolist()
        if operator == "*":
            total = 10 * int(r) + int(a) * int(b[0])
            units = sum(int(digit) * int(b[0]) % 10 * 10**place for place, digit in enumerate(reversed(a)))
            assert found.products[row, : len(a)].tolist() == [int(digit) * int(b[0]) for digit in reversed(a)]
            parts = [units, int(a) * int(b[0]) - units, 10 * int(r)]
            assert sum(parts) == total
            expected = [sum(part % 10**place for part in parts) // 10**place for place in range(places)]
        elif negative % 2:
            low = [(int(a) % 10**place, int(b) % 10**place) for place in range(places)]
            expected = [EQUAL if one == two else LESS if one < two else GREATER for one, two in low]
        else:
            expected = [(int(a) % 10**place + int(b) % 10**place) // 10**place for place in range(places)]
        assert chains == expected, text


def test_a_carry_is_certain_after_as_many_moves_as_columns_leave_it_open(tokenizer: Tokenizer) -> None:
    texts = ["5555+4444", "5555+4445", "1234+1111", "9999-9999", "1234-1233", "5*2:0"]
    found = column_chains(RowReader(tokenizer).operations(rows_of(texts, tokenizer)))
    assert found.chain_moves[0, :5].tolist() == [0, 1, 2, 3, 4]
    assert found.chain_moves[1, :5].tolist() == [0, 1, 2, 3, 4]
    assert found.chain_moves[2, :5].tolist() == [0, 1, 1, 1, 1]
    assert found.chain_moves[3, :5].tolist() == [0, 1, 2, 3, 4]
    assert found.end_moves[3] == 5
    assert found.chain_moves[4, :5].tolist() == [0, 1, 2, 3, 4]
    assert found.digit_moves[4, 0] == found.end_moves[4] + 1


def test_units_are_operators_brackets_and_whole_numbers(tokenizer: Tokenizer) -> None:
    texts = ["12*(3+45)-7", "-305", "((12))*-3"]
    units = RowReader(tokenizer).units(rows_of(texts, tokenizer))
    pieces = tokenizer.pieces()
    for text, row, inside, tokens in zip(
        texts, units.ids.tolist(), units.inside.tolist(), units.tokens.tolist(), strict=True
    ):
        expected = re.findall(r"\d+|\D", text)
        found = [pieces[unit - 1] for unit, there in zip(row, inside, strict=True) if there]
        assert found == [unit[0] for unit in expected]
        assert [row[0], row[len(expected) + 1]] == [len(pieces) + 1, len(pieces) + 2]
        starts = [match.start() for match in re.finditer(r"\d+|\D", text)]
        assert [
            token - (LAYOUT.problem - len(text)) for token, there in zip(tokens, inside, strict=True) if there
        ] == starts
