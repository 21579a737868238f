"""Converts a pydantic model to command-line options, and merges options into a preset or a spec file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

from cyclopts import Parameter
from pydantic import BaseModel, Field, ValidationError, create_model

from storage.errors import UserError
from storage.form import Shorthand
from storage.parameters import one_line, read_parameters

AnyModel = TypeVar("AnyModel", bound=BaseModel)


def options_of(model: type[BaseModel]) -> Any:
    """A model with the same fields, all optional and without bounds, for the values on the command line.

    Bounds are checked once on the merged request, because they depend on the preset that an option changes.
    """
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        kind: Any = field.annotation
        default, parameter = "", Parameter()
        if get_origin(kind) is tuple:
            if _is_model(get_args(kind)[0]):
                # Nested tables, such as the parts of a mixture, can only be set in a file.
                continue
            # An operator may be '-'. Several operators are given by repeating the option.
            parameter = Parameter(allow_leading_hyphen=True, negative_iterable=())
        if _is_model(kind):
            kind = options_of(kind)
        else:
            value = field.get_default(call_default_factory=True)
            default = ", ".join(value) if isinstance(value, tuple) else str(value)
        # Help texts are Markdown, where <name> would be an invisible tag.
        text = f"{field.description or name}{f' Default: {default}.' if default else ''}".replace("<", r"\<")
        fields[name] = (Annotated[kind | None, Field(description=text), parameter], None)
    options = create_model(f"{model.__name__}Options", __base__=Shorthand, **fields)
    options.shorthand = getattr(model, "shorthand", "")
    return options


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def resolve(model: type[AnyModel], source: str, presets: Mapping[str, AnyModel], options: BaseModel | None) -> AnyModel:
    """Merge `source` (the name of a preset, or a YAML or JSON file) with the options.

    Raises `UserError` with a one-line message that names the invalid field.
    """
    if source in presets:
        values = presets[source].model_dump()
    elif Path(source).suffix in (".yaml", ".yml", ".json"):
        values = read_parameters(source)
    else:
        raise UserError(f"preset {source!r} is unknown: use one of {', '.join(presets)}, or name a .yaml or .json file")
    given = options.model_dump(exclude_unset=True) if options else {}
    try:
        return model.model_validate(_merged(model, values, given))
    except ValidationError as error:
        raise UserError(one_line(error)) from error


def _merged(model: Any, values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for name, change in changes.items():
        kind = model.model_fields[name].annotation if _is_model(model) and name in model.model_fields else None
        before, shorthand = merged.get(name), getattr(kind, "shorthand", "")
        if isinstance(before, str) and shorthand:
            before = {shorthand: before}
        if isinstance(change, dict) and isinstance(before, dict):
            merged[name] = _merged(kind, before, change)
        elif change is not None:
            merged[name] = change
    return merged
