"""Every stage runs in a workspace where a path that it writes is a symbolic link: the target keeps its content."""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from flows.common.parameters import EvaluateRequest, ProbeRequest
from flows.evaluate_encoder import evaluate_encoder
from flows.hub.contents import CARD
from flows.hub.dataset_card import corpus_card
from flows.probe_encoder import probe_encoder
from model.comparison.compare import compare
from model.config.comparison import ComparingSpec
from model.evaluation.exhaustive import count_errors
from model.runs.pretrained import export, resolve_run
from model.tokenizer import load_tokenizer
from model.training.preflight import prepare
from model.training.trainer import train
from pipelines.generation.build import build_corpus, build_tokens
from pipelines.generation.migrate import migrate
from pipelines.generation.verify import check_bytes, examine, repair
from pipelines.tokens.vocabulary import train_tokenizer
from storage.datasets.manifest import load
from storage.errors import RunFailure, UserError
from storage.sql.catalog import refresh_catalog
from storage.workspace import Workspace
from tests.builders import SMALL, SMALL_TOKENIZER, TINY_TRAINING, contents
from tests.pipelines.test_migrate import SUMS, write_old

pytestmark = pytest.mark.usefixtures("recorded")

_RUN, _TOKENIZER = "one", "small-digit"


def _generate(workspace: Workspace) -> None:
    dataset, _ = build_corpus(SMALL, workspace.corpus("small"), in_flight=0)
    (workspace.corpus("small") / CARD).write(corpus_card(dataset).encode())


def _train_tokenizer(workspace: Workspace) -> None:
    train_tokenizer(SMALL_TOKENIZER, load(workspace.corpus("small"), "corpus"), workspace.tokenizer(_TOKENIZER))


def _encode(workspace: Workspace) -> None:
    tokenizer, _ = load_tokenizer(workspace.tokenizer(_TOKENIZER))
    build_tokens(
        load(workspace.corpus("small"), "corpus"), tokenizer, workspace.tokens("small", _TOKENIZER), in_flight=0
    )


def _train(workspace: Workspace) -> None:
    train(*prepare(workspace, _RUN, "small", _TOKENIZER, TINY_TRAINING.model_copy(update={"keep": 3})))


def _train_on_a_part(workspace: Workspace) -> None:
    spec = TINY_TRAINING.model_copy(update={"where": "a > 3", "oversample": "b < 9"})
    train(*prepare(workspace, "two", "small", _TOKENIZER, spec))


def _evaluate(workspace: Workspace, **values: object) -> None:
    evaluate_encoder.fn(EvaluateRequest(workspace=str(workspace.root), name=_RUN, limit=100, **values))


def _probe(workspace: Workspace) -> None:
    probe_encoder.fn(ProbeRequest(workspace=str(workspace.root), name=_RUN, problems=200, layers=(1,)))


def _compare_units(workspace: Workspace) -> None:
    compare(
        ComparingSpec(
            workspace=str(workspace.root),
            corpus="small",
            beyond=(),
            trainings={"tiny": TINY_TRAINING},
            units=("none",),
            seeds=1,
            seconds=0.5,
            timed_seconds=0.2,
            validations=1,
            validation_rows=64,
            batch_size=64,
            problems=100,
            curve_problems=100,
        )
    )


def _damage(workspace: Workspace) -> None:
    shard = next(Path(str(workspace.corpus("small").path)).rglob("*.parquet"))
    shard.write_bytes(b"damaged")


def _repair(workspace: Workspace) -> None:
    corpus = examine(workspace.corpus("small"))
    check_bytes(corpus, in_flight=0, progress=lambda rows: None)
    repair(corpus, in_flight=0, progress=lambda rows: None)


class _Stage(NamedTuple):
    write: Callable[[Workspace], object]
    prepare: Callable[[Workspace], object] = lambda workspace: None


# Each stage continues with what the stages before it wrote.
_STAGES = {
    "corpus": _Stage(_generate),
    "tokenizer": _Stage(_train_tokenizer),
    "tokens": _Stage(_encode),
    "training": _Stage(_train),
    "training on a part": _Stage(_train_on_a_part),
    "evaluation": _Stage(_evaluate),
    "suite": _Stage(lambda workspace: _evaluate(workspace, suite="edge")),
    "comparison of evaluations": _Stage(lambda workspace: _evaluate(workspace, compare=(_RUN,))),
    "probing": _Stage(_probe),
    "all problems": _Stage(lambda workspace: list(count_errors(workspace, _RUN))),
    "comparison of units": _Stage(_compare_units),
    "export": _Stage(lambda workspace: export(workspace.run(_RUN), workspace.run("exported"))),
    "copy of a shipped encoder": _Stage(lambda workspace: resolve_run(workspace, "addition")),
    "repair": _Stage(_repair, _damage),
    "migration": _Stage(
        lambda workspace: migrate(workspace.corpus("old"), in_flight=0),
        lambda workspace: write_old(Path(workspace.corpus("old").path), SUMS),
    ),
    "catalog": _Stage(refresh_catalog, lambda workspace: workspace.catalog.remove()),
}


class _Stages:
    """A workspace before and after each stage, made as far as tests ask for them; not to be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.current = folder, folder / "w"
        self.places: dict[str, tuple[Path, Path]] = {}
        Workspace.create(str(self.current))

    def of(self, name: str) -> tuple[Path, Path]:
        for number, (done, stage) in enumerate(_STAGES.items()):
            if name in self.places:
                break
            if done not in self.places:
                stage.prepare(Workspace.open(str(self.current)))
                places = (self.folder / f"{number}-before", self.folder / f"{number}-after")
                shutil.copytree(self.current, places[0])
                stage.write(Workspace.open(str(self.current)))
                shutil.copytree(self.current, places[1])
                self.places[done] = places
        return self.places[name]


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> _Stages:
    return _Stages(tmp_path_factory.mktemp("stages"))


_QUICK = ("corpus", "tokenizer", "tokens")


@pytest.mark.parametrize(
    "name", [name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow) for name in _STAGES]
)
def test_stage_does_not_follow_a_link_in_place_of_any_path_that_it_writes(
    stages: _Stages, tmp_path: Path, name: str
) -> None:
    start, end = stages.of(name)
    paths = list(_written(start, end))
    assert paths
    for path in paths:
        root, outside = tmp_path / "w", tmp_path / "outside"
        shutil.copytree(start, root)
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        # What a stage could overwrite or delete: the file, or the files of the folder, as it writes them.
        _copy(end / path, outside)
        _remove(root / path)
        (root / path).symlink_to(outside)
        content = contents(outside)
        with suppress(UserError, RunFailure):
            _STAGES[name].write(Workspace.open(str(root)))
        assert contents(outside) == content, path
        for place in (root, outside):
            _remove(place)


def _written(start: Path, end: Path) -> Iterator[str]:
    """New and changed files, and new folders; one of those whose paths differ in numbers alone."""
    found = {}
    for path in sorted(end.rglob("*")):
        name = path.relative_to(end).as_posix()
        old = start / name
        if not old.exists() or (path.is_file() and old.read_bytes() != path.read_bytes()):
            found.setdefault(re.sub(r"[0-9a-f]{8,}|\d+", "0", name), name)
    return iter(found.values())


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
