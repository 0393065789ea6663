"""The reasons for which jobs fail."""

import json
import pickle

from tasks.runtime.errors import JobError, Reason
from tasks.runtime.job import explained


def test_a_reason_is_a_plain_word_in_the_result_and_between_ranks() -> None:
    """It is written as it always was, and comes out of a pickle as it went in."""
    error = JobError(Reason.DATA, "there are none")

    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  made in the line itself
    result = explained(copy)

    assert (copy.reason, str(copy)) == ("data", "there are none")
    assert json.loads(result.model_dump_json())["reason"] == "data"
    assert json.loads(json.dumps(result.model_dump()))["reason"] == "data"
