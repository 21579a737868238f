"""The card of a corpus, which Hugging Face's `datasets` uses to load it; it depends only on the manifest."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flows.hub.cards import UNKNOWN_LICENCE, rendered
from pipelines.generation.build import spec_of
from pipelines.generation.describe import column_types, first_problems
from pipelines.generation.generate import generator_version, range_tasks
from pipelines.problems.components import components
from pipelines.spec.corpus import CorpusSpec
from storage.datasets.manifest import SPLITS, Dataset, ShardRecord
from storage.errors import UserError
from storage.sql.views import CORPUS_VIEW

_EXAMPLES = 12
# Hugging Face's names of 10³ to 10¹² rows.
_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")


@dataclass(frozen=True)
class Configuration:
    """Problems with the same columns, which Hugging Face's `datasets` loads as one configuration."""

    name: str
    columns: dict[str, str]
    shards: tuple[ShardRecord, ...]
    patterns: dict[str, list[str]]
    """Paths of the files of each non-empty split, with wildcards if these match exactly its files."""

    @property
    def rows(self) -> dict[str, int]:
        """Number of rows of each split."""
        return {split: sum(shard.rows for shard in self.shards if shard.split == split) for split in SPLITS}

    @property
    def bytes(self) -> int:
        """Total size of the files in bytes."""
        return sum(shard.bytes for shard in self.shards)


def corpus_card(corpus: Dataset, repository: str = "", licence: str = UNKNOWN_LICENCE) -> str:
    """The dataset card of a corpus; `repository` is the ORG/REPO where it is published.

    Raises `UserError` for a corpus of another generator version, because its examples cannot be generated.
    """
    manifest, spec = corpus.manifest, spec_of(corpus)
    current = generator_version(manifest.spec)
    if manifest.generator_version != current:
        raise UserError(
            f"corpus {manifest.name!r} is of generator version {manifest.generator_version}, this release has "
            f"{current} for its families: publish it with the release that made it, or generate it again under another "
            "name"
        )
    configurations = configurations_of(corpus, spec)
    return rendered(
        "dataset_card.jinja",
        _head(corpus, configurations),
        licence,
        manifest=manifest,
        spec=spec,
        repository=repository,
        configurations=configurations,
        splits=[split for split in SPLITS if configurations[0].rows[split]],
        columns=_columns(configurations),
        examples=first_problems(spec, _EXAMPLES),
        specification=yaml.safe_dump({"name": manifest.name, **spec.identity()}, sort_keys=False),
    )


def configurations_of(corpus: Dataset, spec: CorpusSpec) -> list[Configuration]:
    """Group the corpus by family and columns, in its own order; configurations are named after the families."""
    families = {part.number: part.problems.family for part in components(spec)}
    types = {part.number: column_types(part.family(spec).layout.schema) for part in components(spec)}
    component_of = [task.component.number for task in range_tasks(spec)]
    by_columns: dict[tuple[str, tuple[tuple[str, str], ...]], list[ShardRecord]] = {}
    for shard in corpus.shards:
        number = component_of[int(Path(shard.path).stem)]
        by_columns.setdefault((families[number], tuple(types[number].items())), []).append(shard)
    kinds = [family for family, _ in by_columns]
    configurations = []
    for position, ((family, columns), shards) in enumerate(by_columns.items()):
        alone = kinds.count(family) == 1
        name = family if alone else f"{family}-{kinds[: position + 1].count(family)}"
        patterns = {
            split: [f"data/split={split}/family={family}/*/*.parquet"] if alone else paths
            for split in SPLITS
            if (paths := [shard.path for shard in shards if shard.split == split])
        }
        configurations.append(Configuration(name, dict(columns), tuple(shards), patterns))
    return configurations


def _head(corpus: Dataset, configurations: Sequence[Configuration]) -> dict[str, Any]:
    return {
        "pretty_name": f"Numerate: {corpus.manifest.name}",
        "tags": ["arithmetic", "mathematics", "synthetic"],
        "size_categories": [_size_category(corpus.manifest.rows)],
        "configs": [
            {
                "config_name": config.name,
                **({"default": True} if number == 0 else {}),
                "data_files": [{"split": split, "path": paths} for split, paths in config.patterns.items()],
            }
            for number, config in enumerate(configurations)
        ],
        "dataset_info": [
            {
                "config_name": config.name,
                "features": [{"name": name, "dtype": kind} for name, kind in config.columns.items()],
                "splits": [{"name": split, "num_examples": config.rows[split]} for split in config.patterns],
                "download_size": config.bytes,
            }
            for config in configurations
        ],
    }


def _size_category(rows: int) -> str:
    """Hugging Face's size category for a number of rows."""
    position = bisect_right([10 ** (3 + power) for power in range(len(_SIZES))], rows)
    if position == 0:
        return f"n<{_SIZES[0]}"
    return f"{_SIZES[position - 1]}<n<{_SIZES[position]}" if position < len(_SIZES) else f"n>{_SIZES[-1]}"


def _columns(configurations: Sequence[Configuration]) -> list[dict[str, str]]:
    types = {name: kind for config in configurations for name, kind in config.columns.items()}
    columns = []
    for name in CORPUS_VIEW.in_order(types):
        names = [config.name for config in configurations if name in config.columns]
        is_in_all = len(names) == len(configurations)
        columns.append(
            {
                "name": name,
                "type": types[name],
                "configurations": "all" if is_in_all else ", ".join(f"`{config}`" for config in names),
                "meaning": CORPUS_VIEW.column_comment(name).replace("|", "\\|"),
            }
        )
    return columns
