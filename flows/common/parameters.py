"""One pydantic model of parameters for each flow. Forms, command-line options and spec files are derived from it."""

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, Field, model_validator
from pydantic.config import JsonDict

from flows.common.rewriting_suites import RewritingSuiteName
from model.config.evaluation import EvaluationSpec
from model.config.probing import ProbingSpec
from model.config.training import Seeds, TrainingSpec, seed_runs
from pipelines.spec.corpus import CorpusSpec, TokenizerSpec
from storage.form import Form
from storage.places.place import Location
from storage.workspace import Workspace, checked_name

if TYPE_CHECKING:
    # For annotations only: not needed at run time.
    from model.runs.run_config import RunConfig

WORKSPACE = "./workspace"

# Forms also reject URIs with credentials, before anything records them.
_NO_CREDENTIALS: JsonDict = {"pattern": r"^(?!\w+://.*[@?#])"}

KIND_OF_GROUP = {1: "digit", 2: "pairs", 3: "triples"}
"""Kind of a tokenizer by its maximum number of digits per token."""

SuiteName = Literal["test", "grid", "edge", "adderboard", "nested", RewritingSuiteName]

Spec = TypeVar("Spec", bound=BaseModel)


class InWorkspace(Form):
    """Base of all requests that use a workspace."""

    shown_last = ("seeds", "make_missing", "workspace", "ray")
    names: ClassVar[Mapping[str, str]] = {}
    """Fields that contain names of folders, and what they name: corpus, tokenizer or run."""

    workspace: str = Field(
        WORKSPACE,
        description="Folder that holds corpora, tokenizers and runs, or an s3://, gs:// or az:// URI.",
        json_schema_extra=_NO_CREDENTIALS,
    )
    ray: str = Field(
        "",
        max_length=300,
        description="Ray cluster to use: host:port of its head node, or 'auto' on one of its nodes; empty starts a "
        "private Ray instance on this machine.",
    )

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        """Reject invalid names before any work starts; an empty name means the default."""
        for field, kind in self.names.items():
            value = getattr(self, field)
            names = value if isinstance(value, tuple) else (value,) if value else ()
            for name in names:
                checked_name(name, kind)
            if len(set(names)) < len(names):
                raise ValueError(f"{field} {', '.join(names)} lists a {kind} twice: list each {kind} once")
        return self

    @property
    def writes(self) -> bool:
        """Whether the workspace must be writable."""
        return True

    @property
    def workspace_and_ray(self) -> dict[str, str]:
        """These two fields, for another request with the same values."""
        return {name: getattr(self, name) for name in InWorkspace.model_fields}

    def spec(self, kind: type[Spec]) -> Spec:
        """The part of the request that is a `kind`, such as its `CorpusSpec`, without workspace and names."""
        return kind(**self.model_dump(include=set(kind.model_fields)))


class GenerateRequest(InWorkspace, CorpusSpec):
    """Generate a corpus."""


class MakesMissing(InWorkspace):
    """Base of requests that depend on the output of other flows."""

    make_missing: bool = Field(
        False,
        description="First create missing inputs: the corpus, if it has the name of a preset, its tokenizer and its "
        "tokens.",
    )


class LeakageRequest(MakesMissing):
    """Compare the train split of one corpus with the held-out splits of another."""

    train: str = Field(
        "notebook",
        description="Training corpus: its name, or a path or URI that contains a slash.",
        json_schema_extra=_NO_CREDENTIALS,
    )
    held_out: str = Field(
        "notebook",
        description="Corpus whose validation and test problems must not be in the train split of the training corpus; "
        "may be the same corpus.",
        json_schema_extra=_NO_CREDENTIALS,
    )


class OneCorpus(InWorkspace):
    """Base of requests for one existing corpus."""

    corpus: str = Field(
        "notebook", description="Name of the corpus, or a path or URI of its folder.", json_schema_extra=_NO_CREDENTIALS
    )

    def folder(self) -> Location:
        """Folder of the corpus; raises `UserError` if `corpus` is neither a name nor a path."""
        return Workspace.open(self.workspace).corpus_at(self.corpus)


class VerifyRequest(MakesMissing, OneCorpus):
    """Verify a corpus."""

    deep: bool = Field(
        False,
        description="Also recompute every row from the spec. This detects shards that were changed together with "
        "their manifest.",
    )
    repair: bool = Field(False, description="Generate damaged shards again; intact shards stay unchanged.")

    @property
    def writes(self) -> bool:
        """True only with `repair` or `make_missing`."""
        return self.repair or self.make_missing

    @property
    def command(self) -> str:
        words = ["numerate", "corpus", "verify", self.corpus]
        words += ["--workspace", self.workspace] if self.workspace != WORKSPACE else []
        words += ["--ray", self.ray] if self.ray else []
        words += [f"--{name}" for name in ("deep", "repair") if getattr(self, name)]
        return shlex.join(words)


class MigrateRequest(OneCorpus):
    """Migrate a corpus."""


class OfCorpus(MakesMissing):
    """Base of requests for one corpus and one tokenizer."""

    names: ClassVar = {"corpus": "corpus", "tokenizer": "tokenizer"}

    corpus: str = Field("notebook", description="Name of the corpus.")
    tokenizer: str = Field(
        "", description="Name of the tokenizer; empty means <corpus>-digit, or <corpus>-<kind> in tokenizer training."
    )

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer, with the default resolved."""
        return self.tokenizer or f"{self.corpus}-digit"


class TokenizerRequest(OfCorpus, TokenizerSpec):
    """Train a tokenizer."""

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer, with the default resolved."""
        return self.tokenizer or f"{self.corpus}-{self.kind}"


class EncodeRequest(OfCorpus):
    """Encode a corpus."""


class TrainRequest(OfCorpus, Seeds, TrainingSpec):
    """Train an encoder."""

    names: ClassVar = {**OfCorpus.names, "name": "run"}

    name: str = Field("", description="Name of the run; empty means the name of the corpus.")

    @property
    def run_name(self) -> str:
        """Name of the run, with the default resolved."""
        return self.name or self.corpus


class EvaluateRequest(MakesMissing, EvaluationSpec):
    """Evaluate an encoder."""

    names: ClassVar = {"name": "run", "corpus": "corpus", "compare": "run"}

    name: str = Field("notebook", description="Name of the run.")
    corpus: str = Field("", description="Name of the corpus to evaluate on; empty means the corpus of the run.")
    suite: SuiteName = Field(
        "test",
        description="Problems to evaluate on: 'test' is a split of a corpus, the others are generated suites. 'grid': "
        "two operands of all combinations of lengths; 'edge': carry and borrow chains, zeros, nines and negative "
        "results, or the corners of the number ranges if the run has no problems of two operands; 'adderboard': the "
        "public test of AdderBoard; 'nested': brackets nested deeper than in training. For an encoder that rewrites: "
        "'expressions': up to 40 numbers, brackets up to 20 deep, and numbers of 30 digits; 'short': up to 6 numbers; "
        "'signed': sums and differences of signed numbers of up to 20 digits; 'chains': carries through every column, "
        "and problems that look alike; 'long': sums of 200 and 1,000 digits; 'products': of one to "
        "nine, 12, 20 and 50 digits; 'special': products of repeated digits, nines, inner zeros and neighbours of "
        "powers of ten; 'small': all sums, differences and products of 0 to 99, and all sums of four digits; "
        "'notebook': sums of four numbers of 0 to 99.",
    )
    suite_digits: int = Field(
        0,
        ge=0,
        le=500,
        description="Suites grid and edge: digits of the longest operands; 0 means two to four times the trained "
        "length.",
    )
    compare: tuple[str, ...] = Field(
        (),
        max_length=100,
        description="Runs to compare, for example one per seed: the best and last checkpoints are evaluated and "
        "compared by median, minimum and maximum; 'name' is then the name of the comparison.",
    )

    @model_validator(mode="after")
    def _consistent_problems(self) -> Self:
        if self.suite != "test":
            if self.corpus:
                raise ValueError(f"suite {self.suite!r} has its own corpus: omit corpus {self.corpus!r}")
            if self.split != "test":
                raise ValueError(f"suite {self.suite!r} chooses its problems itself: omit split {self.split!r}")
        if self.suite_digits and self.suite not in ("grid", "edge"):
            raise ValueError(f"suite_digits applies to suites grid and edge, not to {self.suite!r}: omit it")
        return self

    @property
    def problems(self) -> str:
        """Short description of the problems, for the name of the flow run."""
        return self.suite if self.suite != "test" else f"{self.corpus or 'its corpus'}, {self.split}"


class ProbeRequest(InWorkspace, ProbingSpec):
    """Probe an encoder."""

    names: ClassVar = {"name": "run", "compare": "run"}

    name: str = Field("notebook", description="Name of the run, or of an encoder that comes with Numerate.")
    compare: tuple[str, ...] = Field(
        (),
        max_length=100,
        description="Runs to probe and report together, one per seed, with intervals over the seeds: three or more. "
        "'name' is then the name of the comparison.",
    )

    @model_validator(mode="after")
    def _enough_seeds(self) -> Self:
        if 0 < len(self.compare) < 3:
            raise ValueError(
                f"compare lists {', '.join(self.compare)}, too few seeds for an interval: list three or more runs, or "
                "omit compare to probe one run"
            )
        return self


class EndToEndRequest(InWorkspace, Seeds):
    """Run all stages: corpus, tokenizer, encoding, training, evaluation."""

    names: ClassVar = {"name": "run"}

    name: str = Field("", description="Name of the run; empty means the name of the corpus.")
    corpus: CorpusSpec = Field(CorpusSpec(), description="Corpus.")
    tokenizer: TokenizerSpec = Field(TokenizerSpec(), description="Tokenizer.")
    training: TrainingSpec = Field(TrainingSpec(), description="Training.")
    evaluation: EvaluationSpec = Field(EvaluationSpec(), description="Evaluation.")

    @property
    def run_name(self) -> str:
        """Name of the run, with the default resolved."""
        return self.name or self.corpus.name

    def generate_request(self) -> GenerateRequest:
        return GenerateRequest(**self.workspace_and_ray, **self.corpus.model_dump())

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer for the later stages; empty for kind 'digit', their default."""
        return "" if self.tokenizer.kind == "digit" else self.tokenizer_request().tokenizer_name

    def tokenizer_request(self) -> TokenizerRequest:
        return TokenizerRequest(**self.workspace_and_ray, corpus=self.corpus.name, **self.tokenizer.model_dump())

    def encode_request(self) -> EncodeRequest:
        return EncodeRequest(**self.workspace_and_ray, corpus=self.corpus.name, tokenizer=self.tokenizer_name)

    def train_request(self) -> TrainRequest:
        return TrainRequest(
            **self.workspace_and_ray,
            corpus=self.corpus.name,
            tokenizer=self.tokenizer_name,
            name=self.run_name,
            seeds=self.seeds,
            **self.training.model_dump(),
        )

    def evaluate_request(self) -> EvaluateRequest:
        return EvaluateRequest(**self.workspace_and_ray, name=self.run_name, **self.evaluation.model_dump())

    def evaluate_requests(self) -> list[EvaluateRequest]:
        """One request for the run of each seed."""
        names = [name for name, _ in seed_runs(self.run_name, self.training, self.seeds)]
        return [self.evaluate_request().model_copy(update={"name": name}) for name in names]


def request_of(config: "RunConfig") -> EndToEndRequest | None:
    """The request that reproduces a run with its corpus and tokenizer; None if the tokenizer has learned pieces."""
    if config.group not in KIND_OF_GROUP:
        return None
    corpus = {name: value for name, value in config.corpus_spec.items() if name != "generator_version"}
    return EndToEndRequest(
        name=config.name,
        corpus=CorpusSpec.model_validate({**corpus, "name": config.corpus}),
        tokenizer=TokenizerSpec.model_validate({"kind": KIND_OF_GROUP[config.group]}),
        training=config.training,
    )


def request_text(config: "RunConfig") -> bytes | None:
    """The same request as the text of a spec file for 'numerate run'; None if `request_of` returns None."""
    request = request_of(config)
    if request is None:
        return None
    text = yaml.safe_dump(request.model_dump(mode="json", exclude_defaults=True), sort_keys=False)
    return f"# Trained by: numerate run request.yaml\n{text}".encode()
