"""Which differences a training on hidden operands may have seen as sums: 30-12=18 is 12+?=30.

The addition twin of a-b=c is b+c=a. Whoever learnt to fill an operand of a sum has met the
difference if the twin is trained on, so differences are judged only where it is not.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.reading import text_hashes
from pipelines.reserved import splits_of
from pipelines.split import Canonical


def addition_twins(problems: pa.Array, answers: pa.Array) -> pa.Array:
    """The sum that says the same as each difference, as text [n]: `b+c` of a-b=c, and `a+d` of a-b=-d.

    Of several numbers subtracted from one, `b+c+d` of a-b-c=d. Null where a problem is no
    difference, or has no such sum.
    """
    several = pc.match_substring_regex(problems, "^[0-9]+(-[0-9]+)+$")
    parts = pc.split_pattern(problems, "-", max_splits=1)
    first, rest = (pc.list_element(pc.if_else(several, parts, pa.scalar(["", ""])), place) for place in (0, 1))
    negative = pc.starts_with(answers, "-")
    positive = pc.binary_join_element_wise(pc.replace_substring(rest, "-", "+"), answers, "+")
    turned = pc.binary_join_element_wise(first, pc.utf8_ltrim(answers, "-"), "+")
    two = pc.invert(pc.match_substring(rest, "-"))
    twins = pc.if_else(negative, pc.if_else(two, turned, None), positive)
    return pc.if_else(several, twins, None)


def has_no_trained_twin(
    split_key: str, validation: float, test: float, problems: pa.Array, answers: pa.Array
) -> NDArray[np.bool_]:
    """Whether each problem, [n], may be judged: it has no addition twin, or one that no corpus of this split trains on.

    `validation` and `test` are the shares held out by the corpus that was trained on.
    """
    twins = addition_twins(problems, answers)
    rows = np.flatnonzero(pc.is_valid(twins).to_numpy(zero_copy_only=False))
    judged = np.ones(len(problems), np.bool_)
    hashes = text_hashes(twins.take(pa.array(rows)), Canonical(split_key))
    judged[rows] = splits_of(hashes, split_key, validation, test) > 0
    return judged
