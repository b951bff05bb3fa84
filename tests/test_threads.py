"""The number of PyTorch's threads."""

import torch

from drlpp.threads import one_thread


def test_there_are_as_many_threads_afterwards():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
