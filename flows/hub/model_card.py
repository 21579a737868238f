"""The card of a trained encoder: measured results, purpose, usage and training."""

import json
from typing import TYPE_CHECKING, Any

from flows.common.progress import counted
from flows.hub.cards import UNKNOWN_LICENCE, rendered
from storage.errors import RunFailure

if TYPE_CHECKING:
    # For annotations only: not needed at run time.
    from model.runs.run_config import RunConfig


def model_card(
    config: "RunConfig",
    parameters: int,
    step: int,
    files: dict[str, bytes],
    repository: str,
    licence: str = UNKNOWN_LICENCE,
) -> str:
    """The model card of a run that is exported as `files`; reports of other steps are left out."""
    results = _results(files, step)
    request = files.get("request.yaml", b"").decode()
    return rendered(
        "model_card.jinja",
        _head(config, results),
        licence,
        config=config,
        parameters=parameters,
        step=step,
        trained_on=_training_problems(config),
        any_length=config.training.encoder.any_length,
        rewrites=config.training.encoder.kind == "rewriting",
        results=results,
        breakdown=_breakdown(results),
        example=example_of(config),
        encoder=_encoder(config),
        request=request,
        repository=repository,
    )


def example_of(config: "RunConfig") -> str:
    """A problem that the encoder of a run can read."""
    digits, operator = min(2, config.extent.digits), config.operators[0]
    numbers = [str(12 + 22 * number % 88)[:digits] for number in range(config.operand_counts.start)]
    return operator.join(numbers)


def _results(files: dict[str, bytes], step: int) -> list[dict[str, Any]]:
    """The reports of a step among the files, the run's own first; raises `RunFailure` for a damaged report."""
    paths = sorted((path for path in files if path.endswith("report.json")), key=lambda path: ("/" in path, path))
    try:
        reports = [json.loads(files[path]) for path in paths]
        return [{**report, "evaluated_on": _evaluated_on(report)} for report in reports if report["step"] == step]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunFailure("a report of the run is damaged: delete it and run 'numerate evaluate' again") from error


def _evaluated_on(report: dict[str, Any]) -> str:
    """What a report is about: corpus or suite, masked operands, and problems left out."""
    suite = report.get("suite", "")
    name = f"suite `{suite}`" if suite not in ("", "test") else f"corpus `{report['corpus']}`"
    name += ", one operand masked" if report.get("missing") == "operand" else ""
    return name + (f", {report['left_out']:,} left out" if report.get("left_out") else "")


def _breakdown(results: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Exact match of a run's own report by length, operators or number of operands, whichever varies first."""
    breakdown = results[0].get("breakdown") or {} if results else {}
    labels = {"digits": "digits of the longest operand", "operators": "operators", "terms": "number of operands"}
    for name, label in labels.items():
        if len(breakdown.get(name, ())) > 1:
            return {"label": label, "rows": breakdown[name]}
    return None


def _head(config: "RunConfig", results: list[dict[str, Any]]) -> dict[str, Any]:
    measurements = [
        {
            "task": {"type": "arithmetic", "name": "Integer arithmetic"},
            "dataset": {"type": "numerate", "name": report["evaluated_on"].replace("`", ""), "split": report["split"]},
            "metrics": [{"type": "exact_match", "name": "Exact match", "value": report["exact_match"]}],
        }
        for report in results
    ]
    return {
        "library_name": "numerate",
        "tags": ["arithmetic", "mathematics", "encoder"],
        **({"model-index": [{"name": config.name, "results": measurements}]} if measurements else {}),
    }


def _training_problems(config: "RunConfig") -> str:
    """Description of the problems that a run was trained on."""
    extent, counts = config.extent, config.operand_counts
    numbers = f"{counts.start}" if len(counts) == 1 else f"{counts.start} to {counts[-1]}"
    digits = "one digit" if extent.digits == 1 else f"at most {extent.digits} digits"
    brackets = f" and up to {counted(extent.depth, 'nested bracket')}" if extent.depth else ""
    return f"problems with `{'`, `'.join(config.operators)}` between {numbers} numbers of {digits}{brackets}"


def _encoder(config: "RunConfig") -> str:
    encoder = config.training.encoder
    loops = f", run {encoder.loops} times" if encoder.loops > 1 else ""
    layers, heads = counted(encoder.layers, "layer"), counted(encoder.heads, "head")
    shape = f"{layers} of width {encoder.width}, {heads}, feed-forward {encoder.feedforward}"
    if encoder.kind == "rewriting":
        marks = ", and as many for marks" if encoder.mark_layers == "own" else ""
        return f"{shape}{marks}, run until little changes; attention to neighbours and a hub"
    return f"{shape}{loops}; norm {encoder.norm}; positions {', '.join(encoder.positions)}"
