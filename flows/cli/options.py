"""From a pydantic model to command-line options and back: a preset or a file, and what the options change."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

from cyclopts import Parameter
from pydantic import BaseModel, Field, ValidationError, create_model

from storage.errors import UserError
from storage.parameters import one_line, read_parameters

AnyModel = TypeVar("AnyModel", bound=BaseModel)


def options_of(model: type[BaseModel]) -> Any:
    """A model with the same fields, none of them required or checked: what was given on the command line.

    Bounds are checked once, on the merged request, so that an option is judged together with
    the preset that it changes.
    """
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        kind: Any = field.annotation
        shown, parameter = "", Parameter()
        if get_origin(kind) is tuple:
            if isinstance(get_args(kind)[0], type) and issubclass(get_args(kind)[0], BaseModel):
                # Tables of their own, such as a mixture's parts, are written into a file.
                continue
            # An operator may be a '-'; several are given by several options.
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
        # Help is Markdown, in which <name> would be a tag that isn't shown.
        text = f"{field.description or name}{shown}".replace("<", r"\<")
        fields[name] = (Annotated[kind | None, Field(description=text), parameter], None)
    return create_model(f"{model.__name__}Options", **fields)


def resolve(model: type[AnyModel], source: str, presets: Mapping[str, AnyModel], options: BaseModel | None) -> AnyModel:
    """The request that `source` (a preset's name, or a YAML or JSON file) and the options make together.

    Raises `UserError`, in one line that names the field, for anything that doesn't fit.
    """
    values = presets[source].model_dump() if source in presets else _read_file(source, presets)
    given = options.model_dump(exclude_unset=True) if options else {}
    try:
        return model.model_validate(_merged(values, given))
    except ValidationError as error:
        raise UserError(one_line(error)) from error


def _read_file(source: str, presets: Mapping[str, AnyModel]) -> dict[str, Any]:
    if Path(source).suffix not in (".yaml", ".yml", ".json"):
        raise UserError(
            f"preset {source!r} is unknown: take one of {', '.join(presets)}, or name a .yaml or .json file"
        )
    return read_parameters(source)


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for name, change in changes.items():
        if isinstance(change, dict) and isinstance(merged.get(name), dict):
            merged[name] = _merged(merged[name], change)
        elif change is not None:
            merged[name] = change
    return merged
