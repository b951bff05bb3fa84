"""How long ranks wait."""

import pytest
import torch

from drlpp.errors import ExecutionError
from drlpp.runtime.transfers.waiting import time_limit_s, wait_for_all

CPU = torch.device("cpu")


class Never:
    """A collective operation that ends with an error, as torch's does."""

    def __init__(self, text):
        self.text = text

    def wait(self, limit):
        raise RuntimeError(self.text)


def test_the_limit_follows_the_longest_step():
    assert time_limit_s(0.01) == 8
    assert time_limit_s(2.0) == 40


@pytest.mark.parametrize(
    ("text", "why"), [("Timed out waiting", "nothing came for 3 s"), ("reset by peer", "the connection broke")]
)
def test_what_is_waited_for_is_named(text, why):
    with pytest.raises(ExecutionError, match=f"stuck in the vote: {why}: a rank hangs or has died"):
        wait_for_all(Never(text), "the vote", 3.0, CPU)


def test_a_process_outside_of_the_group_is_an_error_of_ours():
    with pytest.raises(RuntimeError, match="not in the process group"):
        wait_for_all(None, "the vote", 3.0, CPU)
