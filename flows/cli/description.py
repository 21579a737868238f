"""Output of `numerate corpus describe` and `numerate model describe`, as text or as JSON."""

from dataclasses import asdict
from typing import Any

from flows.common.progress import human
from model.config.presets import ENCODERS
from model.tokenizer import Tokenizer
from pipelines.generation.describe import Description, describe
from pipelines.spec.corpus import CorpusSpec
from pipelines.tokens.vocabulary import train_pieces
from storage.errors import UserError
from storage.sql.meanings import column_comment, in_order


def described_json(spec: CorpusSpec) -> dict[str, Any]:
    """Description of a corpus as JSON values; `spec` has the values of a spec file."""
    found = describe(spec)
    return {
        "name": spec.name,
        "rows": found.rows,
        **{name: value for name, value in asdict(found).items() if name != "spec"},
        "split_rows": found.split_rows,
        "spec": spec.identity(),
    }


def described_text(spec: CorpusSpec) -> str:
    """Description of a corpus as text."""
    found = describe(spec)
    view = f"corpus_{spec.name}"
    columns = in_order(view, list(found.columns))
    widest = max(map(len, columns))
    return "\n".join(
        [
            f"corpus {spec.name}: {found.rows:,} rows, about {human(found.bytes)}B "
            f"({found.bytes / found.rows:.1f} bytes a row), in {_ranges(found)}",
            "about " + ", ".join(f"{rows:,} {split}" for split, rows in found.split_rows.items()),
            "",
            *(f"  {name:{widest}}  {found.columns[name]:7} {column_comment(view, name) or ''}" for name in columns),
            "",
            *_examples(found),
        ]
    )


def _ranges(found: Description) -> str:
    step = found.spec.rows_per_shard
    return f"{found.tasks:,} ranges of at most {step:,} rows" if found.tasks > 1 else "one range"


def encoder_json(preset: str) -> dict[str, Any]:
    """Parameters of an encoder as JSON values; raises `UserError` for an unknown preset."""
    if preset not in ENCODERS:
        raise UserError(f"encoder {preset!r} is unknown: use one of {', '.join(ENCODERS)}")
    # Imported late: PyTorch takes a second to import.
    from model.network.parameter_counts import parameter_table

    parts = parameter_table(ENCODERS[preset], Tokenizer(train_pieces([])))
    return {
        "preset": preset,
        "parameters": sum(parts.values()),
        "parts": parts,
        "encoder": ENCODERS[preset].model_dump(mode="json"),
    }


def encoder_text(found: dict[str, Any]) -> str:
    """The values of `encoder_json` as text."""
    encoder, total = found["encoder"], found["parameters"]
    lines = [
        f"encoder {found['preset']}: {total:,} parameters",
        f"layers: {encoder['layers']}, of width {encoder['width']} with {encoder['heads']} heads and a feed-forward "
        f"layer of {encoder['feedforward']}, run {_times(encoder)}; norm {encoder['norm']}; "
        f"positions {', '.join(encoder['positions'])}",
        "",
        *(f"  {part:16} {count:>12,}  {count / total:6.1%}" for part, count in found["parts"].items()),
    ]
    if found["preset"] == "paper":
        layers = sum(found["parts"][part] for part in ("attention", "feed-forward", "norms"))
        lines += [
            "",
            f'The encoder of "Attention Is All You Need" has {layers / 1e6:.1f} million parameters in its six layers, '
            "not billions. The whole model of the paper, with a decoder and 37,000 word pieces, has 65 million; "
            f"with {found['parts']['token embedding'] // encoder['width']} pieces for arithmetic the embeddings "
            "weigh nothing.",
        ]
    return "\n".join(lines)


def _times(encoder: dict[str, Any]) -> str:
    least, most = encoder["min_loops"] or encoder["loops"], encoder["loops"]
    times = "once" if most == 1 else f"{most} times" if least == most else f"{least} to {most} times"
    # These are the training loops; in answering, the number of loops depends on the number of slots.
    return f"{times} in training and once a slot in answering" if encoder["carry_loops"] else times


def _examples(found: Description) -> list[str]:
    return [f"  {row['split']:11} {row['problem']} = {row['answer']}" for row in found.examples]
