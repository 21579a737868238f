"""Corpora of the evaluation suites: problems that the encoder can hold, split like the corpus of the run.

A suite is an ordinary corpus spec, so `model.evaluation.evaluate` only sees rows. It is made in seconds in this
process, and stored in the workspace under its name and a part of its hash.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from flows.common.parameters import SuiteName
from flows.common.progress import counted
from flows.common.rewriting_suites import CELLS, RewritingSuiteName
from model.config.encoder import Extent
from model.evaluation.problem_batches import Fair
from model.runs.run_config import RunConfig
from model.tokenizer import Tokenizer
from model.training.rare_problems import corner_ranges
from pipelines.generation.build import build_corpus, build_tokens, corpus_identity
from pipelines.spec.corpus import CorpusSpec, MixturePart
from pipelines.split.canonical import split_numbers
from pipelines.split.reserved import LAST_RESERVED, listing, reserved
from storage.datasets.manifest import SPLITS, Dataset, hash_of
from storage.errors import UserError
from storage.workspace import Workspace

_LONGEST_LISTED = 200
_ADDERBOARD_DIGITS = 10
_DEEPEST = 15
# Test problems of the suite 'grid' per operator, and of 'nested' per depth.
_GRID_PROBLEMS, _NESTED_PROBLEMS = 10_000, 1_000
# Limit for the problems in a grid's corners. Larger grids have no exhaustive suite.
_CORNERS = 1_000_000


@dataclass(frozen=True)
class Suite:
    """A suite for one run: its corpus, and remarks on what was left out and why."""

    corpus: CorpusSpec
    remarks: tuple[str, ...]
    split: Literal["test", "all"] = "test"


def suite_of(config: RunConfig, name: SuiteName, digits: int = 0) -> Suite:
    """The suite `name` for a run, with operands of up to `digits` digits; 0 takes a multiple of the trained lengths.

    Raises `UserError` if no problem of the suite fits the run.
    """
    if name == "nested":
        return _nested(config)
    if name in CELLS:
        return _of_cells(config, name)
    if name == "edge" and (corners := corners_of(config)):
        return corners
    if 2 not in config.operand_counts:
        raise UserError(
            f"suite {name!r} has problems of 2 operands, run {config.name!r} was trained on "
            f"{config.operand_counts.start} or more: use suite 'test', or train a run on 2 operands"
        )
    if name == "grid":
        return _grid(config, digits)
    return _edge(config, digits) if name == "edge" else _adderboard(config)


def prepare(workspace: Workspace, config: RunConfig, tokenizer: Tokenizer, suite: Suite) -> tuple[Dataset, Dataset]:
    """The suite's corpus and its tokens, made if they are missing.

    Raises `UserError` if the encoder cannot hold the problems.
    """
    spec = suite.corpus
    corpus, _ = build_corpus(spec, workspace.corpus(spec.name), in_flight=0)
    tokens, _ = build_tokens(corpus, tokenizer, workspace.tokens(spec.name, config.tokenizer), in_flight=0)
    layouts = tokens.manifest.spec["layouts"].values()
    # Layouts count tokens, as the limits of the encoder do.
    extent = Extent(
        problem=max(layout["problem"] for layout in layouts),
        answer=max(layout["answer"] for layout in layouts),
        digits=max(len(str(part.high)) if part.family == "grid" else part.digits for part in spec.parts),
        operands=max(2 if part.family in ("digits", "listed", "steps") else part.terms for part in spec.parts),
        depth=max(part.depth if part.family in ("expression", "marks") else 0 for part in spec.parts),
    )
    if reason := config.training.encoder.refusal(extent, config.group):
        raise UserError(
            f"suite {spec.name!r} has problems that run {config.name!r} cannot hold ({reason}): use another suite"
        )
    return corpus, tokens


def trained_digits(config: RunConfig, operator: str) -> int:
    """Digits of the longest operand of an operator in the run's corpus."""
    parts = [part for part in config.parts if operator in part["operators"]]
    return max(len(str(part["high"])) if part["family"] == "grid" else part["digits"] for part in parts)


def fair_to(config: RunConfig) -> Fair | None:
    """Filter for problems that cannot be in a run's train split; None if no later version reserves more.

    Problems that only later generator versions reserve may be in the train split, up to its longest operands.
    """
    spec = config.corpus_spec
    version = int(spec.get("generator_version", 0))
    if version >= LAST_RESERVED:
        return None
    later = reserved(spec["split_key"], version)

    def fair(facts: pa.Table, canonical: np.ndarray) -> np.ndarray:
        """Boolean mask [n], from the digits of the longest operands and the hashes of the canonical forms."""
        reserved_later = np.zeros(len(canonical), np.bool_)
        reserved_later[later.find(canonical)[0]] = True
        held_out = split_numbers(canonical, spec["validation"], spec["test"]) == SPLITS.index("test")
        return ~reserved_later | held_out | (facts["digits"].to_numpy() > config.extent.digits)

    return fair


def _grid(config: RunConfig, digits: int) -> Suite:
    limits, remarks = _most_digits(config, config.operators, digits)
    shape = {"family": "digits", "terms": 2}
    parts = [
        MixturePart.model_validate({**shape, "operators": [operator], "digits": most})
        for operator, most in limits.items()
    ]
    rows_per_part = round(_GRID_PROBLEMS / config.corpus_spec["test"])
    return Suite(_corpus("grid", config, parts, sum(min(part.size, rows_per_part) for part in parts)), remarks)


def _edge(config: RunConfig, digits: int) -> Suite:
    limits, remarks = _most_digits(config, config.operators, min(digits, _LONGEST_LISTED))
    if digits > _LONGEST_LISTED:
        remarks = (f"operands have at most {_LONGEST_LISTED} digits, not {digits}", *remarks)
    limits = {operator: min(most, _LONGEST_LISTED) for operator, most in limits.items()}
    parts = [_listed("edge", operator, most) for operator, most in limits.items()]
    evaluated, total = sum(part.size for part in parts), len(listing("edge"))
    lengths = ", ".join(f"{operator} up to {counted(most, 'digit')}" for operator, most in limits.items())
    summary = f"{evaluated:,} of the {total:,} edge cases are evaluated: {lengths}"
    return Suite(_corpus("edge", config, parts), (summary, *remarks))


def corners_of(config: RunConfig) -> Suite | None:
    """All problems in the corners of the grids in a run's corpus, the train split included.

    None if the corpus has problems of two operands, parts other than grids, or too many problems in its corners.
    """
    if 2 in config.operand_counts:
        return None
    parts = []
    for part in config.parts:
        same = {name: part.get(name) for name in ("family", "terms", "operators")}
        parts += [MixturePart.model_validate({**same, "low": low, "high": high}) for low, high in corner_ranges(part)]
    if any(part["family"] != "grid" for part in config.parts) or not 0 < sum(part.size for part in parts) <= _CORNERS:
        return None
    ranges = " or ".join(f"{part.low} to {part.high}" for part in parts)
    remark = f"all problems whose numbers are all {ranges} are evaluated, those of the train split included"
    return Suite(_corpus("edge", config, parts, only_test=False), (remark,), "all")


def _adderboard(config: RunConfig) -> Suite:
    if "+" not in config.operators:
        raise UserError(
            f"suite 'adderboard' has sums, run {config.name!r} was trained on {' '.join(config.operators)}: "
            "use another suite"
        )
    limits, remarks = _most_digits(config, ["+"], _ADDERBOARD_DIGITS)
    part = _listed("adderboard", "+", limits["+"])
    total = len(listing("adderboard"))
    if part.size < total:
        remarks = (f"{part.size:,} of the {total:,} problems are evaluated", *remarks)
    return Suite(_corpus("adderboard", config, [part]), remarks)


def _nested(config: RunConfig) -> Suite:
    nested = [part for part in config.parts if part["family"] in ("expression", "marks")]
    part = max(nested, key=lambda part: int(part["depth"]), default=None)
    if part is None or not part["depth"]:
        raise UserError(
            f"suite 'nested' has nested brackets, the corpus of run {config.name!r} has none: "
            "train a run on family 'expression'"
        )
    if "-" not in part["operators"]:
        raise UserError(
            f"suite 'nested' has differences in brackets, run {config.name!r} was trained on none: use another suite"
        )
    parts, remarks = list[MixturePart](), list[str]()
    for depth in range(part["depth"] + 1, part["depth"] + 4):
        terms = max(part["terms"], depth + 2)
        extent = Extent(problem=1, answer=2, digits=part["digits"], operands=terms, depth=depth)
        reason = config.training.encoder.refusal(extent, config.group)
        if reason or depth > _DEEPEST:
            remarks.append(f"depth {depth} is left out: {reason or f'{_DEEPEST} is the deepest'}")
            continue
        shape = {"terms": terms, "min_terms": max(part["min_terms"], depth + 2), "depth": depth, "min_depth": depth}
        kept = {key: part[key] for key in ("operators", "digits", "min_digits")}
        parts.append(MixturePart.model_validate({"family": "expression", **kept, **shape}))
    if not parts:
        raise UserError(f"suite 'nested' does not fit run {config.name!r}: {remarks[0]}")
    most = parts[-1].terms
    if most > config.extent.operands:
        remarks.append(
            f"problems have up to {most} operands, because deep brackets need them; the run was trained on up to "
            f"{config.extent.operands}"
        )
    rows = round(_NESTED_PROBLEMS * len(parts) / config.corpus_spec["test"])
    return Suite(_corpus("nested", config, parts, rows), tuple(remarks))


def _of_cells(config: RunConfig, name: RewritingSuiteName) -> Suite:
    if config.training.encoder.kind != "rewriting":
        raise UserError(
            f"suite {name!r} needs an encoder that rewrites, run {config.name!r} answers at once: use another suite, "
            "or evaluate 'arithmetic'"
        )
    cells = CELLS[name]
    parts = cells.parts_for(config.operators)
    if not parts:
        raise UserError(
            f"suite {name!r} has other operators than run {config.name!r} was trained on, which are "
            f"{' '.join(config.operators)}: use another suite"
        )
    corpus = _corpus(name, config, parts, round(cells.problems / config.corpus_spec["test"]), only_test=cells.only_test)
    return Suite(corpus, (cells.remark,) if cells.remark else (), "test" if cells.only_test else "all")


def _listed(name: str, operator: str, digits: int) -> MixturePart:
    return MixturePart.model_validate({"family": "listed", "listing": name, "operators": (operator,), "digits": digits})


def _most_digits(config: RunConfig, operators: Iterable[str], digits: int) -> tuple[dict[str, int], tuple[str, ...]]:
    """Largest number of digits per operator that the encoder can hold, and remarks on what was left out.

    Raises `UserError` if the encoder can hold no problem of two operands.
    """
    limits, remarks = dict[str, int](), list[str]()
    for operator in operators:
        most = digits or _beyond(trained_digits(config, operator))
        reason = _refusal(config, operator, most)
        fitting = next((fewer for fewer in range(most, 0, -1) if not _refusal(config, operator, fewer)), 0)
        if fitting:
            limits[operator] = fitting
        if not fitting:
            remarks.append(f"problems with {operator} are left out: {reason}")
        elif fitting < most:
            remarks.append(f"{operator} up to {counted(fitting, 'digit')} instead of {most}: {reason}")
    if not limits:
        raise UserError(f"run {config.name!r} cannot hold a problem of two operands ({remarks[0]}): use suite 'test'")
    return limits, tuple(remarks)


def _refusal(config: RunConfig, operator: str, digits: int) -> str:
    """Why the encoder cannot hold two operands of so many digits; empty if it can."""
    group = max(1, config.group)
    answer = 2 * digits if operator == "*" else digits + (operator == "+")
    problem, slots = 2 * -(-digits // group) + 1, 1 + -(-answer // group)
    extent = Extent(problem=problem, answer=slots, digits=digits, operands=2, depth=0)
    return config.training.encoder.refusal(extent, config.group)


def _beyond(trained: int) -> int:
    """Four times the trained number of digits, limited to 60 or to twice the trained number, whichever is larger."""
    return min(4 * trained, max(2 * trained, 60))


def _corpus(
    suite: str, config: RunConfig, parts: list[MixturePart], rows: int = 0, *, only_test: bool = True
) -> CorpusSpec:
    """The corpus of a suite, with the split of the run's corpus."""
    shares = {name: config.corpus_spec[name] for name in ("split_key", "validation", "test")}
    spec = CorpusSpec(name=suite, mixture=tuple(parts), rows=rows, only_test=only_test, **shares)
    return spec.model_copy(update={"name": f"{suite}-{hash_of(corpus_identity(spec))[:8]}"})
