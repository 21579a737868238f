"""Parameters in a YAML or JSON file: plain values by name, each said once, and what is wrong with them in one line."""

import sys
from collections.abc import Hashable
from reprlib import Repr
from typing import Any

import yaml
from pydantic import ValidationError

from storage.errors import UserError
from storage.places.disk import local_path

_LONGEST_NAME = 60
# Ten times the longest that makes sense; PyYAML reads some 70 kB a second.
_MOST_BYTES = 1 << 18


class _Short(Repr):
    """Values in a few dozen characters."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = _LONGEST_NAME

    def repr_int(self, x: int, level: int) -> str:
        """A number; Python refuses to write out one of more than some thousand digits."""
        if x.bit_length() > sys.int_info.default_max_str_digits:
            return f"a number of {x.bit_length():,} bits"
        return super().repr_int(x, level)


_SHORT = _Short()


def read_parameters(source: str) -> dict[str, Any]:
    """The parameters that the file `source` holds.

    Raises `UserError`, in one line, for a file that isn't there, is too large, is no YAML or JSON, holds no mapping,
    or says a name twice, of which YAML itself would take the last.
    """
    place = local_path(source, "file")
    try:
        with place.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"{source} can't be read ({error.strerror}): name a YAML or JSON file") from error
    if len(data) > _MOST_BYTES:
        raise UserError(f"{source} has more than {_MOST_BYTES:,} bytes: parameters take far less, name their file")
    try:
        values = yaml.load(data.decode(), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # A date that is none, or a number of thousands of digits, is a plain ValueError.
        text = " ".join(str(error).split()).partition("; use sys.")[0]
        raise UserError(f"{source} is not YAML or JSON: {text}") from error
    if not isinstance(values, dict):
        raise UserError(f"{source} holds no parameters: write one 'name: value' a line")
    return values


def one_line(error: ValidationError) -> str:
    """The first mistake of a validation, with its place, its value and its bound."""
    first = error.errors()[0]
    place = ".".join(_shown(part) for part in first["loc"])
    text = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return f"{place} is not a parameter: remove it, or see --help for those that are"
    if first["type"] == "missing":
        return f"{place} is missing: add it"
    value = "" if first["type"] == "value_error" else f" is {_SHORT.repr(first['input'])}"
    text = text[0].lower() + text[1:] if place or value else text
    return f"{place}{value}: {text}".removeprefix(" ") if place or value else text


def _shown(part: int | str) -> str:
    """A part of a place as it was written, where that can stand in a line."""
    text = str(part)
    return text if text.isprintable() and text and len(text) <= _LONGEST_NAME else _SHORT.repr(text)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which makes plain values only."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping of a node; raises `YAMLError` where it says a name twice."""
        seen = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value!r} is said twice: leave one out", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)
