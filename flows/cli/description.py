"""Output of `numerate corpus describe` and `numerate model describe`, as text or as JSON."""

from dataclasses import asdict
from typing import Any

from flows.common.progress import counted, human
from model.config.presets import ENCODERS
from model.tokenizer import MARK, REGISTER, UNMARKED, Tokenizer
from pipelines.generation.describe import Description
from pipelines.tokens.vocabulary import train_pieces
from storage.errors import UserError
from storage.sql.views import CORPUS_VIEW


def corpus_json(description: Description) -> dict[str, Any]:
    """Description of a corpus as JSON values; `spec` has the values of a spec file."""
    return {
        "name": description.spec.name,
        "rows": description.rows,
        **{name: value for name, value in asdict(description).items() if name != "spec"},
        "split_rows": description.split_rows,
        "spec": description.spec.identity(),
    }


def corpus_text(description: Description) -> str:
    spec = description.spec
    columns = {name: description.columns[name] for name in CORPUS_VIEW.in_order(description.columns)}
    width = max(map(len, columns))
    ranges = f"{counted(description.tasks, 'range')} of at most {spec.rows_per_shard:,} rows"
    return "\n".join(
        [
            f"corpus {spec.name}: {description.rows:,} rows, about {human(description.bytes)}B "
            f"({description.bytes / description.rows:.1f} bytes a row), in {ranges}",
            "about " + ", ".join(f"{rows:,} {split}" for split, rows in description.split_rows.items()),
            "",
            *(f"  {name:{width}}  {kind:7} {CORPUS_VIEW.column_comment(name)}" for name, kind in columns.items()),
            "",
            *(f"  {row['split']:11} {row['problem']} = {row['answer']}" for row in description.examples),
        ]
    )


def encoder_json(preset: str) -> dict[str, Any]:
    """Parameters of an encoder as JSON values; raises `UserError` for an unknown preset."""
    if preset not in ENCODERS:
        raise UserError(f"encoder {preset!r} is unknown: use one of {', '.join(ENCODERS)}")
    # Imported late: PyTorch takes a second to import.
    from model.network.parameter_counts import parameter_table

    # A corpus for rewriting has marks and a sign for registers, for which its tokenizer has pieces.
    sample = [MARK, UNMARKED, REGISTER] if ENCODERS[preset].kind == "rewriting" else []
    parts = parameter_table(ENCODERS[preset], Tokenizer(train_pieces(sample)))
    return {
        "preset": preset,
        "parameters": sum(parts.values()),
        "parts": parts,
        "encoder": ENCODERS[preset].model_dump(mode="json"),
    }


def encoder_text(description: dict[str, Any]) -> str:
    """The values of `encoder_json` as text."""
    encoder, total = description["encoder"], description["parameters"]
    positions = f"norm {encoder['norm']}; positions {', '.join(encoder['positions'])}"
    if encoder["kind"] == "rewriting":
        positions = "attention to neighbours and a hub"
    lines = [
        f"encoder {description['preset']}: {total:,} parameters",
        f"layers: {encoder['layers']}, of width {encoder['width']} with {counted(encoder['heads'], 'head')} and a "
        f"feed-forward layer of {encoder['feedforward']}, run {_times(encoder)}; "
        f"{positions}",
        "",
        *(f"  {part:16} {count:>12,}  {count / total:6.1%}" for part, count in description["parts"].items()),
    ]
    if description["preset"] == "paper":
        layers = sum(description["parts"][part] for part in ("attention", "feed-forward", "norms"))
        lines += [
            "",
            f'The encoder of "Attention Is All You Need" has {layers / 1e6:.1f} million parameters in its six layers, '
            "not billions. The whole model of the paper, with a decoder and 37,000 word pieces, has 65 million; "
            f"with {description['parts']['token embedding'] // encoder['width']} pieces for arithmetic the embeddings "
            "weigh nothing.",
        ]
    return "\n".join(lines)


def _times(encoder: dict[str, Any]) -> str:
    least, most = encoder["min_loops"] or encoder["loops"], encoder["loops"]
    times = "once" if most == 1 else f"{most} times" if least == most else f"{least} to {most} times"
    # These are the training loops; in answering, the number of loops depends on the number of slots.
    return f"{times} in training and once a slot in answering" if encoder["carry_loops"] else times
