"""The card of a trained encoder: what was measured, what it is for, how it is asked and how it was trained."""

import json
from typing import TYPE_CHECKING, Any

from flows.hub.cards import UNKNOWN_LICENCE, rendered
from storage.errors import RunFailure

if TYPE_CHECKING:
    # Not at once: it imports torch.
    from model.runs.run_config import RunConfig


def model_card(
    config: "RunConfig",
    parameters: int,
    step: int,
    files: dict[str, bytes],
    repository: str,
    licence: str = UNKNOWN_LICENCE,
) -> str:
    """The model card of a run as it is handed on in `files`; what was measured of another step is left out."""
    measured = _measured(files, step)
    request = files.get("request.yaml", b"").decode()
    return rendered(
        "model_card.jinja",
        _head(config, measured),
        licence,
        config=config,
        parameters=parameters,
        step=step,
        learnt=_learnt(config),
        any_length=config.training.encoder.any_length,
        measured=measured,
        groups=_groups(measured),
        example=example_of(config),
        encoder=_encoder(config),
        request=request,
        repository=repository,
    )


def example_of(config: "RunConfig") -> str:
    """A problem that a run's encoder can read."""
    digits, operator = min(2, config.extent.digits), config.operators[0]
    numbers = [str(12 + 22 * place % 88)[:digits] for place in range(config.operand_counts.start)]
    return operator.join(numbers)


def _measured(files: dict[str, bytes], step: int) -> list[dict[str, Any]]:
    """The reports among the files that are of a step, the run's own first; raises `RunFailure` for a damaged one."""
    paths = sorted((path for path in files if path.endswith("report.json")), key=lambda path: ("/" in path, path))
    try:
        reports = [json.loads(files[path]) for path in paths]
        return [{**report, "asked": _asked(report)} for report in reports if report["step"] == step]
    except (ValueError, KeyError, TypeError) as error:
        raise RunFailure("a report of the run is damaged: delete it and run 'numerate evaluate' again") from error


def _asked(report: dict[str, Any]) -> str:
    """What a report is about: a corpus or a suite, and what was out of the ordinary."""
    suite = report.get("suite", "")
    name = f"suite `{suite}`" if suite not in ("", "test") else f"corpus `{report['corpus']}`"
    name += ", an operand hidden" if report.get("missing") == "operand" else ""
    return name + (f", {report['left_out']:,} left out" if report.get("left_out") else "")


def _groups(measured: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The breakdown of a run's own report by length, or by what else there is."""
    breakdown = measured[0].get("breakdown") or {} if measured else {}
    labels = {"digits": "digits of the longest operand", "operators": "operators", "terms": "number of operands"}
    for name, what in labels.items():
        if len(breakdown.get(name, ())) > 1:
            return {"what": what, "rows": breakdown[name]}
    return None


def _head(config: "RunConfig", measured: list[dict[str, Any]]) -> dict[str, Any]:
    results = [
        {
            "task": {"type": "arithmetic", "name": "Integer arithmetic"},
            "dataset": {"type": "numerate", "name": report["asked"].replace("`", ""), "split": report["split"]},
            "metrics": [{"type": "exact_match", "name": "Exact match", "value": report["exact_match"]}],
        }
        for report in measured
    ]
    return {
        "library_name": "numerate",
        "tags": ["arithmetic", "mathematics", "encoder"],
        **({"model-index": [{"name": config.name, "results": results}]} if results else {}),
    }


def _learnt(config: "RunConfig") -> str:
    """The problems that a run learnt, in words."""
    extent, counts = config.extent, config.operand_counts
    numbers = f"{counts.start}" if len(counts) == 1 else f"{counts.start} to {counts[-1]}"
    text = (
        f"problems with `{'`, `'.join(config.operators)}` between {numbers} numbers of at most {extent.digits} digits"
    )
    text = text.replace("at most 1 digits", "one digit")
    return text + (f" and up to {extent.depth} nested brackets" if extent.depth else "")


def _encoder(config: "RunConfig") -> str:
    encoder = config.training.encoder
    loops = f", run {encoder.loops} times" if encoder.loops > 1 else ""
    return (
        f"{encoder.layers} layers of width {encoder.width}, {encoder.heads} heads, feed-forward {encoder.feedforward}"
        f"{loops}; norm {encoder.norm}; positions {', '.join(encoder.positions)}"
    )
