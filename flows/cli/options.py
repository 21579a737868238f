"""Converts a pydantic model to command-line options, and merges options into a preset or a spec file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

from cyclopts import Parameter
from pydantic import BaseModel, Field, ValidationError, create_model

from storage.errors import UserError
from storage.parameters import one_line, read_parameters

AnyModel = TypeVar("AnyModel", bound=BaseModel)


def options_of(model: type[BaseModel]) -> Any:
    """A model with the same fields, all optional and without bounds, for the values on the command line.

    Bounds are checked once on the merged request, because they depend on the preset that an option changes.
    """
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        kind: Any = field.annotation
        shown, parameter = "", Parameter()
        if get_origin(kind) is tuple:
            if isinstance(get_args(kind)[0], type) and issubclass(get_args(kind)[0], BaseModel):
                # Nested tables, such as the parts of a mixture, can only be set in a file.
                continue
            # An operator may be '-'. Several operators are given by repeating the option.
            parameter = Parameter(allow_leading_hyphen=True, negative_iterable=())
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = options_of(kind)
        else:
            default = field.get_default(call_default_factory=True)
            shown = (
                f" Default: {', '.join(default) if isinstance(default, tuple) else default}."
                if default not in ("", ())
                else ""
            )
        # Help texts are Markdown, where <name> would be an invisible tag.
        text = f"{field.description or name}{shown}".replace("<", r"\<")
        fields[name] = (Annotated[kind | None, Field(description=text), parameter], None)
    return create_model(f"{model.__name__}Options", **fields)


def resolve(model: type[AnyModel], source: str, presets: Mapping[str, AnyModel], options: BaseModel | None) -> AnyModel:
    """Merge `source` (the name of a preset, or a YAML or JSON file) with the options.

    Raises `UserError` with a one-line message that names the invalid field.
    """
    values = presets[source].model_dump() if source in presets else _read_file(source, presets)
    given = options.model_dump(exclude_unset=True) if options else {}
    try:
        return model.model_validate(_merged(values, given))
    except ValidationError as error:
        raise UserError(one_line(error)) from error


def _read_file(source: str, presets: Mapping[str, AnyModel]) -> dict[str, Any]:
    if Path(source).suffix not in (".yaml", ".yml", ".json"):
        raise UserError(f"preset {source!r} is unknown: use one of {', '.join(presets)}, or name a .yaml or .json file")
    return read_parameters(source)


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for name, change in changes.items():
        if isinstance(change, dict) and isinstance(merged.get(name), dict):
            merged[name] = _merged(merged[name], change)
        elif change is not None:
            merged[name] = change
    return merged
