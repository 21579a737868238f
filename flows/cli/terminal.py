"""What reaches a terminal: text without characters that would steer it, and standard streams that are there."""

import codecs
import io
import logging
import os
import sys
import unicodedata
from typing import Any, BinaryIO

_KEPT = "\n\t"


def printable(text: str) -> str:
    """The text with its control characters, and those that turn its direction, written out, such as `\\x1b`."""
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if character not in _KEPT and unicodedata.category(character) in ("Cc", "Cf", "Cs")
        else character
        for character in text
    )


class PrintableFormatter(logging.Formatter):
    """Writes log records as they reach a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's line, printable."""
        return printable(super().format(record))


class PrintableSink(io.RawIOBase):
    """Takes UTF-8 for a terminal, and hands on what is printable of it."""

    def __init__(self, target: BinaryIO) -> None:
        self._target, self._decoder = target, codecs.getincrementaldecoder("utf-8")("replace")

    def writable(self) -> bool:
        """That it can be written."""
        return True

    def write(self, data: Any) -> int:
        """Hand on what is printable of the bytes."""
        self._target.write(printable(self._decoder.decode(bytes(data))).encode())
        return len(data)


def open_missing_streams() -> None:
    """Open those of the standard streams that were closed, lest a file takes the number of one of them.

    Standard input is then empty, standard error is dropped, and writing to standard output fails.
    """
    for number, (name, mode) in enumerate((("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY))):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free.
            os.open(os.devnull, mode)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", errors="replace", closefd=False))  # noqa: SIM115
