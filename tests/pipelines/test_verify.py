"""Every kind of damage is found, and a repair brings back the identical bytes and touches nothing else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.generation import verify
from pipelines.generation.build import locked
from pipelines.generation.verify import check_bytes, check_rows, examine, repair
from pipelines.problems.components import components
from pipelines.spec.corpus import CorpusSpec, MixturePart
from storage.datasets.manifest import WRITER, Dataset, ShardRecord, commit, load
from storage.datasets.shard import file_hash, open_shard
from storage.errors import RunFailure, UserError
from storage.places.disk import LocalLocation
from storage.places.place import Location
from tests.builders import SMALL, Built, build_corpus_plainly


@pytest.fixture
def corpus(tmp_path: Path, small: Built) -> Dataset:
    """A copy of the small corpus, as a workspace holds it, for a test to damage."""
    folder = tmp_path / "corpora" / "small"
    shutil.copytree(small.corpus.location.path, folder, ignore=shutil.ignore_patterns("tokens"))
    return load(LocalLocation(folder), "corpus")


def faults(folder: Location, deep: bool = False, in_flight: int = 0) -> dict[str, str]:
    """The text of every fault by path."""
    found = examine(folder)
    check_bytes(found, in_flight=in_flight, progress=lambda rows: None)
    if deep:
        check_rows(found, in_flight=in_flight, progress=lambda rows: None)
    return {fault.path: fault.text for fault in found.faults}


def repaired(folder: Location, deep: bool = False, in_flight: int = 0) -> Dataset:
    """The corpus after a repair."""
    found = examine(folder)
    check_bytes(found, in_flight=in_flight, progress=lambda rows: None)
    if deep:
        check_rows(found, in_flight=in_flight, progress=lambda rows: None)
    with locked(folder, "corpus"):
        return repair(found, in_flight=in_flight, progress=lambda rows: None)


def files(folder: Location) -> dict[str, bytes]:
    """Every file of a corpus that is not hidden, with its bytes."""
    return {
        path.relative_to(folder.path).as_posix(): path.read_bytes()
        for path in folder.path.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def times(folder: Location) -> dict[str, int]:
    return {path: (folder.path / path).stat().st_mtime_ns for path in files(folder)}


def flip(path: Path, at: float, bit: int = 0) -> None:
    """Flips one bit of the byte at this share of the file."""
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 1 << bit
    path.write_bytes(bytes(data))


def assert_repaired(corpus: Dataset, broken: set[str], damage: Callable[[], object], *, deep: bool = False) -> None:
    """`damage` is found only at `broken` and is repaired without a change of any other file."""
    folder = corpus.location
    before, when = files(folder), times(folder)
    assert faults(folder, deep) == {}
    damage()
    assert set(faults(folder, deep)) == broken
    assert repaired(folder, deep).manifest == corpus.manifest
    assert files(folder) == before
    untouched = set(before) - broken
    assert {path: time for path, time in times(folder).items() if path in untouched} == {
        path: when[path] for path in untouched
    }
    assert faults(folder, deep=True) == {}
    assert not list(folder.path.rglob("*.partial"))
    assert not (folder / ".progress").exists()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 11), st.floats(0, 0.9999), st.integers(0, 7)), min_size=1, max_size=4),
)
def test_any_flipped_bits_of_any_shards_are_repaired(corpus: Dataset, flips: list[tuple[int, float, int]]) -> None:
    shards = {number % len(corpus.shards): (at, bit) for number, at, bit in flips}
    assert_repaired(
        corpus,
        {corpus.shards[number].path for number in shards},
        lambda: [flip((corpus.location / corpus.shards[n].path).path, *how) for n, how in shards.items()],
    )


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "has 100 bytes instead of"),
        (lambda path: path.write_bytes(b""), "has 0 bytes instead of"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "bytes instead of"),
        (lambda path: flip(path, 0.5), "is damaged"),
    ],
)
def test_damaged_shard_is_named_and_repaired(corpus: Dataset, damage: Callable[[Path], None], words: str) -> None:
    victim = corpus.shards[4].path

    def act() -> None:
        damage((corpus.location / victim).path)
        assert words in faults(corpus.location)[victim]

    assert_repaired(corpus, {victim}, act)


def test_ray_finds_and_repairs_the_same(corpus: Dataset, ray_instance: int) -> None:
    victims = {corpus.shards[number].path for number in (1, 6)}
    before = files(corpus.location)
    for path in victims:
        flip((corpus.location / path).path, 0.5)
    assert set(faults(corpus.location, deep=True, in_flight=ray_instance)) == victims
    assert repaired(corpus.location, deep=True, in_flight=ray_instance).manifest == corpus.manifest
    assert files(corpus.location) == before


def test_extra_shard_is_deleted(corpus: Dataset) -> None:
    extra = "data/split=train/family=grid/width=16/000099.parquet"
    assert_repaired(
        corpus,
        {extra},
        lambda: shutil.copy((corpus.location / corpus.shards[0].path).path, (corpus.location / extra).path),
    )


def test_lost_list_of_shards_is_restored(corpus: Dataset) -> None:
    assert_repaired(corpus, {corpus.manifest.list_name}, corpus.list_location.remove)


def test_list_of_shards_that_is_lost_together_with_a_shard_is_restored(corpus: Dataset) -> None:
    folder, victim = corpus.location, corpus.shards[3].path
    before, when = files(folder), times(folder)
    flip((folder / victim).path, 0.9)
    flip(corpus.list_location.path, 0.4)
    assert "doesn't match manifest.json" in faults(folder)[corpus.manifest.list_name]
    assert repaired(folder).manifest == corpus.manifest
    assert files(folder) == before
    assert {path for path, time in times(folder).items() if time != when[path]} == {victim, corpus.manifest.list_name}


def test_every_flipped_byte_of_the_manifest_is_a_fault(corpus: Dataset) -> None:
    place = corpus.location / "manifest.json"
    whole = place.read()
    for at in range(len(whole)):
        for turned in (1, 2, 16):
            place.path.write_bytes(whole[:at] + bytes([whole[at] ^ turned]) + whole[at + 1 :])
            try:
                assert examine(corpus.location).faults, (at, turned)
            except (RunFailure, UserError) as failure:
                assert "\n" not in str(failure)  # noqa: PT017


@pytest.mark.parametrize(
    ("field", "value"), [("rows", 1), ("name", "other"), ("writer", "pyarrow 1.0"), ("shards_sha256", "0"), ("x", 1)]
)
def test_manifest_with_a_changed_value_is_repaired_from_its_spec(corpus: Dataset, field: str, value: object) -> None:
    place = corpus.location / "manifest.json"

    def damage() -> None:
        place.path.write_text(json.dumps({**json.loads(place.read()), field: value}, indent=2, sort_keys=True) + "\n")

    folder, before = corpus.location, files(corpus.location)
    damage()
    assert set(faults(folder)) == {"manifest.json"}
    assert repaired(folder).manifest == corpus.manifest
    assert files(folder) == before


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe"])
def test_manifest_without_a_spec_gives_one_line_with_a_remedy(corpus: Dataset, text: bytes) -> None:
    (corpus.location / "manifest.json").path.write_bytes(text)
    with pytest.raises(
        RunFailure, match=r"spec is lost: delete it and run the same 'numerate corpus generate' command again$"
    ):
        examine(corpus.location)


def test_folder_without_a_manifest_gives_one_line_with_a_remedy(corpus: Dataset, tmp_path: Path) -> None:
    (corpus.location / "manifest.json").remove()
    with pytest.raises(RunFailure, match=r"has no manifest.json"):
        examine(corpus.location)
    with pytest.raises(UserError, match=r"corpus 'nowhere' does not exist"):
        examine(LocalLocation(tmp_path / "nowhere"))


def falsified(corpus: Dataset, number: int) -> None:
    """Writes other rows to a shard and commits the corpus with them."""
    shard = corpus.shards[number]
    (component,) = components(SMALL)
    layout = component.family(SMALL).layout
    table = pq.ParquetFile((corpus.location / shard.path).path).read()
    place = table.schema.get_field_index("id")
    table = table.set_column(place, table.schema.field(place), pa.array(table["id"].to_numpy()[::-1].copy()))
    with open_shard(corpus.location, shard.path, split=shard.split, stratum=shard.stratum, layout=layout) as other:
        other.write(table.cast(layout.schema))
    lengths = {name: getattr(shard, name) for name in ("problem_length", "answer_digits")}
    committed_anew(corpus, {shard.path: other.record._replace(**lengths)})


def committed_anew(corpus: Dataset, changed: dict[str, ShardRecord | None]) -> Dataset:
    """Commit the corpus with other lines for some of its shards, or without them."""
    shards = [changed.get(shard.path, shard) for shard in corpus.shards]
    return commit(
        corpus.location,
        kind="corpus",
        name="small",
        generator_version=corpus.manifest.generator_version,
        spec=corpus.manifest.spec,
        shards=[shard for shard in shards if shard],
    )


def test_deep_finds_a_shard_that_was_replaced_together_with_the_manifest(corpus: Dataset) -> None:
    folder, victim = corpus.location, corpus.shards[2].path
    before, when = files(folder), times(folder)
    falsified(corpus, 2)
    assert faults(folder) == {}
    assert faults(folder, deep=True) == {victim: "differs from the spec (other rows)"}
    assert repaired(folder, deep=True).manifest == corpus.manifest
    assert files(folder) == before
    assert {path for path, time in times(folder).items() if time != when.get(path)} == {
        victim,
        corpus.manifest.list_name,
        "manifest.json",
    }


def test_deep_finds_a_shard_that_the_manifest_lacks_and_one_that_the_spec_lacks(corpus: Dataset) -> None:
    folder, before = corpus.location, files(corpus.location)
    lost, foreign = corpus.shards[1], corpus.shards[0].path.replace("000000", "000077")
    shutil.copy((folder / corpus.shards[0].path).path, (folder / foreign).path)
    (folder / lost.path).remove()
    last = corpus.shards[-1]
    committed_anew(corpus, {lost.path: None, last.path: corpus.shards[0]._replace(path=foreign)})
    assert set(faults(folder)) == {last.path}
    found = faults(folder, deep=True)
    assert found[lost.path] == "is in the spec, but not in the manifest"
    assert found[foreign] == "is in the manifest, but not in the spec"
    assert repaired(folder, deep=True).manifest == corpus.manifest
    assert files(folder) == before


@pytest.mark.parametrize("field", ["problem_length", "answer_digits"])
def test_deep_finds_a_wrong_line_of_the_manifest(corpus: Dataset, field: str) -> None:
    shard = corpus.shards[0]
    committed_anew(corpus, {shard.path: shard._replace(**{field: 99})})
    assert faults(corpus.location) == {}
    assert f"({field} 99 instead of " in faults(corpus.location, deep=True)[shard.path]
    assert repaired(corpus.location, deep=True).manifest == corpus.manifest


def test_deep_finds_shards_in_another_order(corpus: Dataset) -> None:
    first, second = corpus.shards[:2]
    other = committed_anew(corpus, {first.path: second, second.path: first})
    assert faults(corpus.location, deep=True) == {other.manifest.list_name: "lists a shard twice or in the wrong order"}
    assert repaired(corpus.location, deep=True).manifest == corpus.manifest


def test_corpus_of_another_writer_is_repaired_by_content(corpus: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shards have another compression, like those of an older pyarrow; intact shards keep their bytes."""
    folder, changed = corpus.location, dict[str, ShardRecord | None]()
    for shard in corpus.shards:
        place = (folder / shard.path).path
        pq.write_table(pq.ParquetFile(place).read(), place, compression="gzip")
        changed[shard.path] = shard._replace(bytes=place.stat().st_size, sha256=file_hash(LocalLocation(place)))
    committed_anew(corpus, changed)
    place = folder / "manifest.json"
    monkeypatch.setattr(verify, "WRITER", "pyarrow 99.0")
    assert examine(folder).writer == WRITER
    assert faults(folder, deep=True) == {}
    victim = corpus.shards[-1]
    flip((folder / victim.path).path, 0.5)
    when = times(folder)
    after = repaired(folder)
    assert [shard.content for shard in after.shards] == [shard.content for shard in corpus.shards]
    number = victim.path[-14:]
    changed_files = {path for path, time in times(folder).items() if time != when.get(path)}
    assert victim.path in changed_files
    assert all(path.endswith((number, after.manifest.list_name, "manifest.json")) for path in changed_files)
    # So that tokenizer, tokens and runs fit as before.
    assert after.manifest.identity == corpus.manifest.identity
    assert after.shards[-1] == victim
    assert json.loads(place.read())["writer"] == WRITER
    assert faults(folder, deep=True) == {}


def test_regenerated_shard_that_differs_from_its_manifest_stops_a_repair(corpus: Dataset) -> None:
    falsified(corpus, 0)
    flip((corpus.location / corpus.shards[1].path).path, 0.5)
    with pytest.raises(RunFailure, match=r"regenerated rows of shard .* differ from the manifest: .* --deep --repair"):
        repaired(corpus.location)
    repaired(corpus.location, deep=True)
    assert faults(corpus.location, deep=True) == {}


def test_a_corpus_of_another_generator_is_not_recomputed(corpus: Dataset) -> None:
    commit(
        corpus.location,
        kind="corpus",
        name="small",
        generator_version=1,
        spec={**corpus.manifest.spec, "generator_version": 1},
        shards=list(corpus.shards),
    )
    assert faults(corpus.location) == {}
    with pytest.raises(UserError, match="has generator version 1, this Numerate has"):
        faults(corpus.location, deep=True)


def test_states_and_steps_are_verified_and_repaired_too(tmp_path: Path) -> None:
    shape = {"operators": ("+", "-", "*"), "digits": 3}
    families = (MixturePart(family="marks", terms=3, depth=1, **shape), MixturePart(family="steps", **shape))
    spec = CorpusSpec(name="both", rows=4_000, rows_per_shard=2_000, validation=0.1, test=0.1, mixture=families)
    corpus = build_corpus_plainly(spec, LocalLocation(tmp_path / "corpora" / "both"))
    for family in ("marks", "steps"):
        shard = next(shard for shard in corpus.shards if shard.stratum.startswith(family))
        path = corpus.location.path / shard.path
        assert_repaired(corpus, {shard.path}, lambda path=path: flip(path, 0.5), deep=True)
