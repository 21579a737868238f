"""The command `numerate probe`."""

import json
from typing import Annotated, Any

from cyclopts import Parameter

from flows.cli.command_factory import Json, Verbose, run_flow
from flows.cli.options import options_of, resolve
from flows.common.parameters import ProbeRequest


def probe(
    run: str = "notebook",
    /,
    *,
    options: Any = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Probe a trained encoder: digit geometry, probes, attention and edits of its states; writes an HTML report.

    Results that are already in the run's folder probes/ are not recomputed. Query them with SQL: `probes`,
    `probe_geometry`, `probe_attention`, `probe_unit`, `probe_interventions`, `probe_series`.

    Example: `numerate probe notebook`

    Parameters
    ----------
    run
        Name of the run, or of an encoder that comes with Numerate; with --compare, name of the comparison.
    """
    given = options.model_dump(exclude_unset=True) if options else {}
    request = resolve(ProbeRequest, run, {run: ProbeRequest(name=given.get("name") or run)}, options)
    result = run_flow("flows.probe_encoder.probe_encoder", request, verbose)
    if as_json:
        print(json.dumps(result, indent=2))


probe.__annotations__["options"] = Annotated[options_of(ProbeRequest) | None, Parameter(name="*")]
