"""Text to token ids and back: SentencePiece's own model, and what a row of tokens looks like.

Special pieces: `[PAD]` before a short problem, `[MASK]` over a slot to be filled, `[BLANK]` in
a slot that the answer doesn't need. No piece spans more than one number, and operators and
brackets stand alone.

SentencePiece matches from the left, so groups of two or three digits from the right of each
number are cut before it sees the text (`right_groups`); each group is a piece of its model.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import sentencepiece
from pydantic import BaseModel, ConfigDict, Field

from storage.errors import RunFailure, UserError
from storage.places.place import Location

PAD, UNKNOWN, MASK, BLANK = "[PAD]", "[UNK]", "[MASK]", "[BLANK]"
EQUALS = "="
DIGITS = "0123456789"

# Types of token ids by their bytes. SentencePiece's ids are well below 2¹⁵, so PyTorch's signed type holds them.
ID_TYPES: dict[int, np.dtype] = {1: np.dtype(np.uint8), 2: np.dtype("<i2")}


# Of a row: the memory of attention grows with their square.
MOST_TOKENS = 2_048


class TokenLayout(BaseModel):
    """One row of tokens: the problem right-aligned after padding, `=`, and the answer's slots.

    The first slot holds the sign (`-` or blank), the others the digits, or what else the pieces of
    a number are, right-aligned after blanks; so a slot's place value is its position, and the
    answer's length is not given away.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    problem: int = Field(ge=1, le=MOST_TOKENS, description="Tokens of the longest problem.")
    answer: int = Field(ge=2, le=MOST_TOKENS, description="Slots of the answer, the sign's included.")

    @property
    def width(self) -> int:
        """Tokens in a row."""
        return self.problem + 1 + self.answer


def check_tokens(problem: int, answer: int) -> None:
    """Raise `UserError` for problems of more tokens, or answers of more slots, than a row of tokens holds."""
    for what, tokens in (("problems", problem), ("answers", answer)):
        if tokens > MOST_TOKENS:
            raise UserError(
                f"{what} may have {tokens:,} tokens, a row of tokens holds {MOST_TOKENS:,}: "
                "lower terms or digits, or take tokenizer kind triples"
            )


class TokenizerCard(BaseModel):
    """What is known of a tokenizer besides its model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    corpus: str = Field(description="Name of the corpus that it was trained on.")
    corpus_identity: str = Field(description="Hash of that corpus's manifest.")
    spec_hash: str
    pieces: int
    sample_rows: int
    model_sha256: str


@dataclass(frozen=True)
class Tokenizer:
    """A SentencePiece model; equal bytes are equal tokenizers."""

    model: bytes

    @property
    def identity(self) -> str:
        """SHA-256 of the model's bytes."""
        return hashlib.sha256(self.model).hexdigest()

    @cached_property
    def processor(self) -> sentencepiece.SentencePieceProcessor:
        """The library's own encoder and decoder."""
        return sentencepiece.SentencePieceProcessor(model_proto=self.model)

    @property
    def size(self) -> int:
        """Number of pieces."""
        return int(self.processor.get_piece_size())

    def id_of(self, piece: str) -> int:
        """Id of one piece; raises `UserError` where the tokenizer has none."""
        if piece not in self._numbers:
            raise UserError(f"the tokenizer has no piece for {piece!r}: train one on a corpus that holds it")
        return self._numbers[piece]

    @cached_property
    def group(self) -> int:
        """Digits that a piece stands for at most, in groups from the right of a number; 0 where pieces were learnt.

        User-defined pieces, as all groups are, have score 0; of learnt ones only BPE's first has.
        """
        spans = {piece for piece in self.pieces() if len(piece) > 1 and not piece.startswith("[")}
        if any(self.processor.get_score(self._numbers[piece]) for piece in spans):
            return 0
        longest = max(map(len, spans), default=1)
        return longest if spans == set(group_pieces(longest)) else 0

    @property
    def id_type(self) -> np.dtype:
        """Type of the ids in a row of tokens: one byte where that holds all pieces, else two."""
        return ID_TYPES[1 if self.size <= 256 else 2]

    def encode(self, text: str) -> list[int]:
        """SentencePiece's ids of `text`, or of its groups of digits from the right, one after the other."""
        if self.group > 1:
            # One by one: the library starts a thread for every list.
            return [number for part in right_groups(text, self.group) for number in self.processor.encode(part)]
        return list(self.processor.encode(text))

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`, special pieces included by name."""
        return "".join(self.processor.id_to_piece([int(number) for number in ids]))

    def character_ids(self) -> bytes:
        """For each of the 256 byte values its id, where every character is a piece of its own.

        A row of text is then encoded by one table look-up; a test and every shard compare the
        result with SentencePiece's. Bytes without a piece map to the unknown piece. Raises
        `UserError` where pieces span characters or ids leave a byte.
        """
        if self.size > 256 or self.group != 1:
            raise UserError("this tokenizer's pieces span several characters, one token a digit is needed here")
        ids = bytearray([self.processor.unk_id()]) * 256
        for number, piece in enumerate(self.pieces()):
            if len(piece) == 1 and ord(piece) < 128:
                ids[ord(piece)] = number
        return bytes(ids)

    def pieces(self) -> list[str]:
        """All pieces in the order of their ids."""
        return [self.processor.id_to_piece(number) for number in range(self.size)]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {piece: number for number, piece in enumerate(self.pieces())}

    def slots(self, answer: str, layout: TokenLayout) -> list[int]:
        """Token ids of an answer's slots: sign, blanks, digits or other pieces of the number."""
        sign, digits = ("-", answer[1:]) if answer.startswith("-") else (BLANK, answer)
        ids = self.encode(digits)
        return [self.id_of(sign), *[self.id_of(BLANK)] * (layout.answer - 1 - len(ids)), *ids]

    def row(self, problem: str, layout: TokenLayout) -> list[int]:
        """Token ids of a problem with all answer slots masked; raises `UserError` if it doesn't fit."""
        ids = self.encode(problem)
        if not problem or self.id_of(UNKNOWN) in ids:
            raise UserError(f"problem {problem!r} can't be read: write numbers with + - * between them, like 12+34")
        if len(ids) > layout.problem:
            shown = problem if len(problem) <= 60 else problem[:60] + "…"
            raise UserError(
                f"problem {shown!r} has {len(ids)} tokens, the model holds {layout.problem}: ask a shorter one"
            )
        padding = [self.id_of(PAD)] * (layout.problem - len(ids))
        return [*padding, *ids, self.id_of(EQUALS), *[self.id_of(MASK)] * layout.answer]


def group_pieces(size: int) -> list[str]:
    """All groups of 2 … `size` digits; a single digit is a piece of any tokenizer."""
    return ["".join(digits) for length in range(2, size + 1) for digits in product(DIGITS, repeat=length)]


def right_groups(text: str, size: int) -> list[str]:
    """`text` cut into groups of at most `size` digits, counted from the right of each number, and single characters."""
    return re.findall(rf"[0-9]{{1,{size}}}(?=(?:[0-9]{{{size}}})*(?![0-9]))|[^0-9]", text)


def load_tokenizer(folder: Location) -> tuple[Tokenizer, TokenizerCard]:
    """Open a tokenizer; raises `UserError` where there is none and `RunFailure` where it is damaged."""
    if not (folder / "card.json").exists():
        raise UserError(
            f"tokenizer {folder.name!r} is not there ({folder}): run 'numerate tokenizer train' first, "
            "or 'numerate run' for everything"
        )
    model = (folder / "tokenizer.model").read()
    try:
        card = TokenizerCard.model_validate(json.loads((folder / "card.json").read()))
    except (ValueError, RecursionError) as error:
        raise RunFailure(f"{folder / 'card.json'} is damaged: delete {folder} and train it again") from error
    tokenizer = Tokenizer(model)
    if tokenizer.identity != card.model_sha256:
        raise RunFailure(f"{folder / 'tokenizer.model'} doesn't match its card: delete {folder} and train it again")
    return tokenizer, card
