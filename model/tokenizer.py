"""Converts text to token ids and back with a SentencePiece model, and defines the layout of a token row.

Special pieces: `[PAD]` before a short problem, `[MASK]` in a slot to be filled, `[BLANK]` in a slot that the answer
does not need. No piece spans several numbers; each operator and bracket is a separate piece.

SentencePiece matches from the left. So numbers are first split into groups of two or three digits from the right
(`right_groups`); each group is a piece of the model.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import sentencepiece
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from storage.errors import RunFailure, UserError
from storage.places.place import Location

PAD, UNKNOWN, MASK, BLANK = "[PAD]", "[UNK]", "[MASK]", "[BLANK]"
EQUALS = "="
# In the corpus families 'marks' and 'steps': a character that belongs to an operation that can be carried out now, any
# other character, and the sign before the register of a product.
MARK, UNMARKED, REGISTER = "^", ".", ":"
DIGITS = "0123456789"

# Types of token ids by size in bytes. SentencePiece's ids are well below 2¹⁵, so PyTorch's signed type holds them.
ID_TYPES: dict[int, np.dtype] = {1: np.dtype(np.uint8), 2: np.dtype("<i2")}


# Most tokens of a problem or of an answer: the memory of attention grows with the square of a row's width.
MOST_TOKENS = 2_048


class TokenLayout(BaseModel, frozen=True, extra="forbid"):
    """Layout of a token row: the problem, right-aligned after padding, then `=`, then the answer's slots.

    The first slot holds the sign (`-` or blank). The other slots hold the digits, or other pieces of the number,
    right-aligned after blanks. So a slot's position gives its place value, and does not reveal the answer's length.
    """

    problem: int = Field(ge=1, le=MOST_TOKENS, description="Tokens of the longest problem.")
    answer: int = Field(ge=2, le=MOST_TOKENS, description="Slots of the answer, including the sign.")

    @property
    def width(self) -> int:
        """Tokens in a row."""
        return self.problem + 1 + self.answer


def holds_marks(width: int, slots: int) -> bool:
    """Whether rows of `width` tokens with `slots` slots hold marks: one per token of the problem, after a sign.

    All other answers have fewer tokens than their problems.
    """
    return slots > width - 1 - slots


def check_tokens(problem: int, answer: int) -> None:
    """Raise `UserError` if a problem has more tokens, or an answer more slots, than a token row allows."""
    for what, tokens in (("problems", problem), ("answers", answer)):
        if tokens > MOST_TOKENS:
            raise UserError(
                f"{what} may have {tokens:,} tokens, but a row holds at most {MOST_TOKENS:,}: "
                "lower terms or digits, or use tokenizer kind triples"
            )


class TokenizerCard(BaseModel, frozen=True, extra="forbid"):
    """Metadata of a tokenizer."""

    kind: str
    corpus: str = Field(description="Name of the corpus that it was trained on.")
    corpus_identity: str = Field(description="Hash of that corpus's manifest.")
    spec_hash: str
    pieces: int
    sample_rows: int
    model_sha256: str


@dataclass(frozen=True)
class Tokenizer:
    """A SentencePiece model; tokenizers with equal bytes are equal."""

    model: bytes

    @property
    def identity(self) -> str:
        """SHA-256 of the model's bytes."""
        return hashlib.sha256(self.model).hexdigest()

    @cached_property
    def processor(self) -> sentencepiece.SentencePieceProcessor:
        """SentencePiece's encoder and decoder."""
        return sentencepiece.SentencePieceProcessor(model_proto=self.model)

    @property
    def size(self) -> int:
        return int(self.processor.get_piece_size())

    def id_of(self, piece: str) -> int:
        """Id of a piece; raises `UserError` if the tokenizer does not have it."""
        if piece not in self._numbers:
            raise UserError(f"the tokenizer has no piece for {piece!r}: train a tokenizer on a corpus that contains it")
        return self._numbers[piece]

    @cached_property
    def group(self) -> int:
        """Most digits per piece, if numbers are split into groups from the right; 0 for learned pieces.

        Groups are user-defined pieces, which have score 0. Among learned pieces, only BPE's first has score 0.
        """
        spans = {piece for piece in self.pieces() if len(piece) > 1 and not piece.startswith("[")}
        if any(self.processor.get_score(self._numbers[piece]) for piece in spans):
            return 0
        longest = max(map(len, spans), default=1)
        return longest if spans == set(group_pieces(longest)) else 0

    @property
    def id_type(self) -> np.dtype:
        """Data type of the ids in a token row: one byte for up to 256 pieces, otherwise two."""
        return ID_TYPES[1 if self.size <= 256 else 2]

    def encode(self, text: str) -> list[int]:
        """SentencePiece's ids of `text`, split into groups of digits from the right if the tokenizer uses groups."""
        if self.group > 1:
            # Encoded one by one, because SentencePiece starts threads for a list.
            return [number for part in right_groups(text, self.group) for number in self.processor.encode(part)]
        return list(self.processor.encode(text))

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`; special pieces appear by name."""
        return "".join(self.processor.id_to_piece([int(number) for number in ids]))

    def character_ids(self) -> bytes:
        """Token id of each of the 256 byte values, for tokenizers with one piece per character.

        A row of text is then encoded with one table lookup. A test and every shard compare the result with that of
        SentencePiece. Bytes without a piece map to the unknown piece. Raises `UserError` if pieces span several
        characters or ids do not fit into one byte.
        """
        if self.size > 256 or self.group != 1:
            raise UserError(
                "this tokenizer's pieces span several characters, but one token per digit is required: use kind digit"
            )
        ids = bytearray([self.processor.unk_id()]) * 256
        for number, piece in enumerate(self.pieces()):
            if len(piece) == 1 and ord(piece) < 128:
                ids[ord(piece)] = number
        return bytes(ids)

    def right_aligned(self, texts: Sequence[str]) -> NDArray[np.uint8]:
        """Token ids [n, longest] of texts, after padding; raises `UserError` as `character_ids` does."""
        longest = max(map(len, texts))
        filler = "\0"
        characters = "".join(text.rjust(longest, filler) for text in texts).encode("ascii", "replace")
        table = bytearray(self.character_ids())
        table[ord(filler)] = self.id_of(PAD)
        return np.frombuffer(characters.translate(bytes(table)), np.uint8).reshape(len(texts), longest)

    def pieces(self) -> list[str]:
        """All pieces, ordered by id."""
        return [self.processor.id_to_piece(number) for number in range(self.size)]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {piece: number for number, piece in enumerate(self.pieces())}

    def slots(self, answer: str, layout: TokenLayout) -> list[int]:
        """Token ids of an answer's slots: sign, blanks, then digits or other pieces of the number."""
        sign, digits = ("-", answer[1:]) if answer.startswith("-") else (BLANK, answer)
        ids = self.encode(digits)
        return [self.id_of(sign), *[self.id_of(BLANK)] * (layout.answer - 1 - len(ids)), *ids]

    def row(self, problem: str, layout: TokenLayout) -> list[int]:
        """Token ids of a problem with all answer slots masked.

        Raises `UserError` if the problem cannot be parsed or is too long for `layout`.
        """
        ids = self.encode(problem)
        if not problem or self.id_of(UNKNOWN) in ids:
            raise UserError(
                f"problem {problem!r} cannot be parsed: write numbers with + - * between them, such as 12+34"
            )
        if len(ids) > layout.problem:
            shown = problem if len(problem) <= 60 else problem[:60] + "…"
            raise UserError(
                f"problem {shown!r} has {len(ids)} tokens, but the maximum is {layout.problem}: use a shorter problem"
            )
        padding = [self.id_of(PAD)] * (layout.problem - len(ids))
        return [*padding, *ids, self.id_of(EQUALS), *[self.id_of(MASK)] * layout.answer]


def group_pieces(size: int) -> list[str]:
    """All groups of 2 … `size` digits; single digits are pieces of every tokenizer."""
    return ["".join(digits) for length in range(2, size + 1) for digits in product(DIGITS, repeat=length)]


def right_groups(text: str, size: int) -> list[str]:
    """Splits `text` into groups of at most `size` digits, from the right of each number, and single characters."""
    return re.findall(rf"[0-9]{{1,{size}}}(?=(?:[0-9]{{{size}}})*(?![0-9]))|[^0-9]", text)


def load_tokenizer(folder: Location) -> tuple[Tokenizer, TokenizerCard]:
    """Open a tokenizer; raises `UserError` if it does not exist, and `RunFailure` if it is damaged."""
    if not (folder / "card.json").exists():
        raise UserError(
            f"tokenizer {folder.name!r} does not exist ({folder}): run 'numerate tokenizer train' first, "
            "or 'numerate run' for all stages"
        )
    model = (folder / "tokenizer.model").read()
    try:
        card = TokenizerCard.model_validate(json.loads((folder / "card.json").read()))
    except (ValueError, RecursionError) as error:
        raise RunFailure(f"{folder / 'card.json'} is damaged: delete {folder} and train it again") from error
    tokenizer = Tokenizer(model)
    if tokenizer.identity != card.model_sha256:
        raise RunFailure(f"{folder / 'tokenizer.model'} does not match its card: delete {folder} and train it again")
    return tokenizer, card
