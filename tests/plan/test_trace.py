"""What an event of a trace says of itself."""

import pytest

from drlpp.plan import TraceEvent


@pytest.mark.parametrize(("stream", "receiver"), [("link:3->12", 12), ("compute", -1), ("all-reduce", -1)])
def test_transfers_name_their_receiver(stream, receiver):
    assert TraceEvent(device=3, stream=stream, kind="send", start_s=0.0, end_s=1.0).receiver == receiver
