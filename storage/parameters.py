"""Reads parameters from a YAML or JSON file, with one-line errors and without duplicate names."""

import sys
from collections.abc import Hashable
from reprlib import Repr
from typing import Any

import yaml
from pydantic import ValidationError

from storage.errors import UserError
from storage.places.disk import local_path

_LONGEST_NAME = 60
# Ten times the largest reasonable file; PyYAML parses about 70 kB a second.
MOST_BYTES = 1 << 18


class _Short(Repr):
    """Shortens values to a few dozen characters."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = _LONGEST_NAME

    def repr_int(self, x: int, level: int) -> str:
        """A number, or its size in bits if Python refuses to print it."""
        if x.bit_length() > sys.int_info.default_max_str_digits:
            return f"a number of {x.bit_length():,} bits"
        return super().repr_int(x, level)


_SHORT = _Short()


def read_parameters(source: str) -> dict[str, Any]:
    """Returns the parameters in the file `source`.

    Raises `UserError` with a one-line message if the file is missing, too large, not YAML or JSON, not a mapping, or
    contains a name twice (YAML itself would use the last value).
    """
    path = local_path(source, "file")
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"{source} can't be read ({error.strerror}): name a YAML or JSON file") from error
    if len(data) > MOST_BYTES:
        raise UserError(f"{source} has more than {MOST_BYTES:,} bytes, the limit for parameters: name a smaller file")
    try:
        values = yaml.load(data.decode(), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # An invalid date or a number with thousands of digits raises a plain ValueError.
        text = " ".join(str(error).split()).partition("; use sys.")[0]
        raise UserError(f"{source} is not YAML or JSON: {text}") from error
    if not isinstance(values, dict):
        raise UserError(f"{source} contains no parameters: write one 'name: value' per line")
    return values


def one_line(error: ValidationError) -> str:
    """The first error of a validation in one line: field, value and limit."""
    first = error.errors()[0]
    name = ".".join(_shown(part) for part in first["loc"])
    text = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return f"{name} is not a parameter: remove it, or see --help for all parameters"
    if first["type"] == "missing":
        return f"{name} is missing: add it"
    value = "" if first["type"] == "value_error" else f" is {_SHORT.repr(first['input'])}"
    text = text[0].lower() + text[1:] if name or value else text
    return f"{name}{value}: {text}".removeprefix(" ") if name or value else text


def _shown(part: int | str) -> str:
    """Part of a field's path, shortened if it is long or not printable."""
    text = str(part)
    return text if text.isprintable() and text and len(text) <= _LONGEST_NAME else _SHORT.repr(text)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which creates plain values only and rejects duplicate names."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Returns a node's mapping; raises `YAMLError` for a duplicate name."""
        names = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in names:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value!r} is given twice: remove one", key.start_mark
                    )
                names.add(key.value)
        return super().construct_mapping(node, deep)
