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


@pytest.mark.parametrize(
    ("digits_per_step", "needed"), [(1, [4, 5, 5, 7, 4, 2, 1]), (2, [4, 6, 6, 7, 4, 2, 1]), (3, [4, 7, 7, 7, 4, 2, 1])]
)
def test_places_have_room_for_every_result(tokenizer: Tokenizer, digits_per_step: int, needed: list[int]) -> None:
    texts = ["999+999", "999*999:999", "99*999:999", "1*123456:0", "999--999", "0*0:0", "--7"]
    found = RowReader(tokenizer, digits_per_step).operations(rows_of(texts, tokenizer))
    assert all(places >= need for places, need in zip(found.places.tolist(), needed, strict=True))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_chains_are_those_of_written_arithmetic(tokenizer: Tokenizer, size: int) -> None:
    rng = random.Random(2)
    texts = [operation(rng) for _ in range(500)]
    operations = RowReader(tokenizer, size).operations(rows_of(texts, tokenizer))
    found = column_chains(operations, size)
    # Comparisons come after the carries.
    more = 2 * (size - 1)
    for row, text in enumerate(texts):
        first, operator, second, register = parsed(text)
        places = int(operations.places[row])
        negative = first.count("-") + second.count("-") + (operator == "-")
        a, b, r = (re.sub(r"\D", "", digits) or "0" for digits in (first, second, register))
        chains = found.chains[row, :places].tolist()
        if operator == "*":
            group = b[: (len(b) - 1) % size + 1]
            parts = [10**size * int(r)]
            for number, d in enumerate(reversed(group)):
                products = [int(digit) * int(d) for digit in reversed(a)]
                assert found.products[row, : len(a), number].tolist() == products
                units = sum(product % 10 * 10 ** (place + number) for place, product in enumerate(products))
                parts += [units, 10**number * int(a) * int(d) - units]
            assert not found.products[row, :, len(group) :].any()
            assert sum(parts) == 10**size * int(r) + int(a) * int(group)
            expected = [sum(part % 10**place for part in parts) // 10**place for place in range(places)]
        elif negative % 2:
            low = [(int(a) % 10**place, int(b) % 10**place) for place in range(places)]
            expected = [more + (EQUAL if one == two else LESS if one < two else GREATER) for one, two in low]
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


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_carries_of_products_are_certain_as_soon_as_no_lower_column_can_change_them(
    tokenizer: Tokenizer, size: int
) -> None:
    rng = random.Random(3)
    texts = [f"{rng.randrange(1, 10**6)}*{rng.randrange(10**5)}{REGISTER}{rng.randrange(10**6)}" for _ in range(300)]
    found = column_chains(RowReader(tokenizer, size).operations(rows_of(texts, tokenizer)), size)
    for totals, chains, moves in zip(
        found.totals.tolist(), found.chains.tolist(), found.chain_moves.tolist(), strict=True
    ):
        for place, (carry, move) in enumerate(zip(chains, moves, strict=True)):

            def reached(entering: int, columns: int, place: int = place, totals: list[int] = totals) -> int:
                """The carry into a place if so many columns below it are known, and `entering` comes into them."""
                carry = entering if columns < place else 0
                for total in totals[place - min(columns, place) : place]:
                    carry = (total + carry) // 10
                return carry

            def certain(columns: int, carry: int = carry) -> bool:
                return reached(0, columns) == reached(2 * size, columns) == carry

            assert certain(move)
            assert not move or not certain(move - 1)


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
