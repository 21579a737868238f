"""Safe terminal output: escapes control characters, and opens missing standard streams."""

import codecs
import io
import logging
import os
import sys
import unicodedata
from typing import Any, BinaryIO

_KEPT = "\n\t"


def printable(text: str) -> str:
    """Escape control characters and characters that change the text direction, for example as `\\x1b`."""
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if character not in _KEPT and unicodedata.category(character) in ("Cc", "Cf", "Cs")
        else character
        for character in text
    )


class PrintableFormatter(logging.Formatter):
    """Formats log records without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's line, printable."""
        return printable(super().format(record))


class PrintableSink(io.RawIOBase):
    """A binary stream that escapes unprintable characters of UTF-8 text and passes it on to a terminal."""

    def __init__(self, target: BinaryIO) -> None:
        self._target, self._decoder = target, codecs.getincrementaldecoder("utf-8")("replace")

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Write the printable form of the bytes to the terminal."""
        self._target.write(printable(self._decoder.decode(bytes(data))).encode())
        return len(data)


def open_missing_streams() -> None:
    """Open closed standard streams, so that no file gets the descriptor of one.

    Standard input is then empty, standard error is discarded, and writing to standard output fails.
    """
    for number, (name, mode) in enumerate((("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY))):
        try:
            os.fstat(number)
        except OSError:
            # This gets the lowest free descriptor, which is `number`.
            os.open(os.devnull, mode)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", errors="replace", closefd=False))  # noqa: SIM115
