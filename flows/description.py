"""`numerate corpus describe`: what a corpus would be, as text or as JSON."""

from dataclasses import asdict
from typing import Any

from flows.progress import human
from pipelines.describe import Description, describe
from pipelines.spec import CorpusSpec
from storage.meanings import column_comment, in_order


def described_json(spec: CorpusSpec) -> dict[str, Any]:
    """The description as JSON values; `spec` is what a spec file would say."""
    found = describe(spec)
    return {
        "name": spec.name,
        **{name: value for name, value in asdict(found).items() if name != "spec"},
        "split_rows": found.split_rows,
        "spec": spec.identity(),
    }


def described_text(spec: CorpusSpec) -> str:
    """The description for people."""
    found = describe(spec)
    view = f"corpus_{spec.name}"
    columns = in_order(view, list(found.columns))
    widest = max(map(len, columns))
    return "\n".join(
        [
            f"corpus {spec.name}: {found.rows:,} rows, about {human(found.bytes)}B "
            f"({found.bytes / found.rows:.1f} bytes a row), {found.tasks:,} ranges of {spec.rows_per_shard:,} rows",
            "about " + ", ".join(f"{rows:,} {split}" for split, rows in found.split_rows.items()),
            "",
            *(f"  {name:{widest}}  {found.columns[name]:7} {column_comment(view, name) or ''}" for name in columns),
            "",
            *_examples(found),
        ]
    )


def _examples(found: Description) -> list[str]:
    return [f"  {row['split']:11} {row['problem']} = {row['answer']}" for row in found.examples]
