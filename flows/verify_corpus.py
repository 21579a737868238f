"""The flows `verify-corpus` and `migrate-corpus`, which check and update existing corpora."""

import time
from dataclasses import asdict
from typing import Any

from flows.common.engines import ray_session
from flows.common.flow import flow
from flows.common.parameters import MigrateRequest, VerifyRequest
from flows.common.progress import counted, metered, say
from flows.common.timing import note_seconds
from flows.generate_corpus import ensure_corpus
from flows.reports.artifacts import show_faults
from pipelines.generation.build import protected
from pipelines.generation.migrate import migrate, old_spec
from pipelines.generation.verify import CorpusDamaged, Examination, check_bytes, check_rows, examine, repair
from storage.datasets.manifest import WRITER, ShardRecord
from storage.datasets.schema_version import SCHEMA_VERSION
from storage.sql.catalog import refresh_catalog
from storage.workspace import Workspace


@flow(name="verify-corpus", flow_run_name="verify {request.corpus}")
def verify_corpus(request: VerifyRequest) -> dict[str, Any]:
    """Compare a corpus with its manifest, and with `deep` also with its spec; repairs it if requested.

    Raises `CorpusDamaged` if there are faults and no repair is requested.
    """
    if request.make_missing:
        ensure_corpus(request, request.corpus)
    folder = request.folder()
    examine(folder)
    with (
        protected(folder, f"corpus {folder.name!r}", write=request.repair),
        ray_session(request.ray, folder) as cpus,
    ):
        corpus = examine(folder)
        if request.deep or request.repair:
            corpus.spec()
        with metered("verify-corpus", f"verify {corpus.name}", max(1, corpus.rows * (1 + request.deep))) as meter:
            check_bytes(corpus, in_flight=cpus, progress=meter.add)
            if request.deep:
                check_rows(corpus, in_flight=cpus, progress=meter.add)
        if corpus.writer != WRITER:
            say(f"corpus {corpus.name} was written by {corpus.writer}, this is {WRITER}{_effect(corpus, request)}")
        if not corpus.faults:
            return _result(request, corpus, corpus.shards or ())
        show_faults(corpus.name, [asdict(fault) for fault in sorted(corpus.faults)])
        if not request.repair:
            raise CorpusDamaged(
                f"corpus {corpus.name!r} has {counted(len(corpus.faults), 'fault')}: run "
                f"'{request.model_copy(update={'repair': True}).command}'",
                sorted(corpus.faults),
            )
        with metered("verify-corpus", f"repair {corpus.name}", corpus.spec().total_rows) as meter:
            dataset = repair(corpus, in_flight=cpus, progress=meter.add)
    refresh_catalog(Workspace.create(request.workspace))
    return _result(request, corpus, dataset.shards)


@flow(name="migrate-corpus", flow_run_name="migrate {request.corpus}")
def migrate_corpus(request: MigrateRequest) -> dict[str, Any]:
    """Migrate a corpus of an older schema version to the current one; does nothing if none is needed."""
    folder = request.folder()
    spec = old_spec(folder)
    began = time.monotonic()
    rows = spec.total_rows if spec else 1
    with ray_session(request.ray, folder) as cpus, metered("migrate-corpus", f"migrate {folder.name}", rows) as meter:
        migrated = migrate(folder, in_flight=cpus, progress=meter.add)
    if migrated is None:
        say(f"corpus {folder.name}: nothing to migrate, its schema version is supported")
        return {"corpus": folder.name, "location": str(folder), "migrated": False}
    seconds = time.monotonic() - began
    note_seconds(folder, seconds)
    refresh_catalog(Workspace.create(request.workspace))
    manifest = migrated.corpus.manifest
    say(
        f"corpus {folder.name}: schema version {SCHEMA_VERSION} in {seconds:.1f} s, {manifest.rows:,} rows with the "
        f"same ids and problems; {migrated.moved:,} moved to test, which contains all reserved problems"
    )
    if migrated.old_tokens:
        say(
            f"corpus {folder.name}: its tokens ({', '.join(migrated.old_tokens)}) only matched the old version and "
            "were deleted: train a tokenizer under another name and encode again"
        )
    return {
        "corpus": folder.name,
        "location": str(folder),
        "migrated": True,
        "identity": manifest.identity,
        "rows": manifest.rows,
        "moved_to_test": migrated.moved,
        "removed_tokens": list(migrated.old_tokens),
    }


def _result(request: VerifyRequest, corpus: Examination, shards: tuple[ShardRecord, ...]) -> dict[str, Any]:
    return {
        "corpus": corpus.name,
        "location": str(corpus.folder),
        "shards": len(shards),
        "rows": sum(shard.rows for shard in shards),
        "bytes": sum(shard.bytes for shard in shards),
        "recomputed": request.deep,
        "repaired": [asdict(fault) for fault in sorted(corpus.faults)],
    }


def _effect(corpus: Examination, request: VerifyRequest) -> str:
    """What a different version of the writer means for this request."""
    if not (corpus.faults and request.repair):
        return ": a shard that is generated again would have the same rows but different bytes"
    return (
        ": repaired shards have the same rows but different bytes, which the manifest records; tokenizer, tokens and "
        "runs stay valid"
    )
