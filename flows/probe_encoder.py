"""The flow `probe-encoder`: probes one run, or several seeds, and writes tables and an HTML report."""

import time
from typing import Any

from flows.common.flow import flow
from flows.common.parameters import ProbeRequest
from flows.common.progress import metered, say
from flows.reports.artifacts import show_probing
from flows.reports.probing.page import write_probing
from flows.reports.run_page import write_run_page
from model.config.probing import ProbingSpec
from model.evaluation.predictor import TrainedEncoder, open_trained
from model.probing.over_training import series, series_is_cached, series_problems
from model.probing.probe_run import probe, study_of
from model.runs.pretrained import resolve_run
from model.runs.run_config import load_run, refuse_unlike
from storage.sql.catalog import refresh_catalog
from storage.workspace import Workspace


@flow(name="probe-encoder", flow_run_name="probe {request.name}")
def probe_encoder(request: ProbeRequest) -> dict[str, Any]:
    """Probe runs and write the report; returns the findings. Results that are up to date are not recomputed."""
    workspace, spec = Workspace.create(request.workspace), request.spec(ProbingSpec)
    names = [resolve_run(workspace, name) for name in request.compare or (request.name,)]
    # Fail before any work starts.
    refuse_unlike([load_run(workspace.run(name)) for name in names])
    parts = {name: len(study_of(open_trained(workspace.run(name), spec.checkpoint), spec).parts()) for name in names}
    steps = {name: _probed(workspace, name, spec, parts[name]) for name in names}
    refresh_catalog(workspace)
    folder = workspace.comparison(request.name) if request.compare else workspace.run(names[0])
    page = folder / "probes" / "index.html"
    title = request.name if request.compare else names[0]
    section = write_probing(page, workspace, title, names, spec.checkpoint, series_problems(spec) if spec.series else 0)
    if not request.compare:
        write_run_page(workspace, names[0])
    for finding in section.findings:
        say(f"  {finding.text}")
    say(f"report: {page}")
    show_probing(workspace, f"probing of {title}", [(figure.title, figure.picture) for figure in section.figures], page)
    return {
        "runs": names,
        "checkpoint": spec.checkpoint,
        "steps": steps,
        "findings": [finding._asdict() for finding in section.findings],
        "page": str(page),
    }


def _probed(workspace: Workspace, name: str, spec: ProbingSpec, parts: int) -> int:
    """Compute the missing tables of one run, in so many parts; returns the step of its checkpoint."""
    folder, began = workspace.run(name), time.monotonic()
    with metered("probe-encoder", f"probe {name}", parts, "parts") as meter:
        model, up_to_date = probe(folder, spec, lambda part: meter.add(1))
    if isinstance(model, TrainedEncoder) and spec.series and not series_is_cached(folder, spec):
        up_to_date = False
        series(folder, model, spec)
    elif "series" in spec.model_fields_set and not isinstance(model, TrainedEncoder):
        say(f"run {name} rewrites: series is ignored, because only encoders that answer at once have one")
    step = model.checkpoint.step
    took = "up to date" if up_to_date else f"{time.monotonic() - began:.1f} s"
    say(f"run {name}: probed at step {step:,}, {spec.checkpoint} checkpoint ({took})")
    return step
