"""The objective that a training's specification names."""

from typing import Any

from model.config.training import TrainingSpec
from model.objectives.answers import AnswerObjective
from model.objectives.objective import Objective
from model.objectives.rewriting import RewritingObjective
from model.tokenizer import Tokenizer


def objective_of(spec: TrainingSpec, tokenizer: Tokenizer) -> Objective[Any]:
    """The objective of a training."""
    return RewritingObjective(spec, tokenizer) if spec.objective == "rewriting" else AnswerObjective(spec, tokenizer)
