"""Actions: what a rank does for one stage and one micro-batch, in the text form of torch.distributed.pipelining.

``2F0`` is the forward pass of stage 2 on micro-batch 0; ``B`` a whole backward pass; ``I`` its input-gradient and
``W`` its weight-gradient half.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, cast

from drlpp.errors import ScheduleError

Kind = Literal["F", "B", "I", "W"]
LOOKAHEAD = 2
"""Actions before its first reader at which the receive of a message is posted, and its buffer made."""
_TEXT = re.compile(r"(\d+)([FBIW])(\d+)$")


class Action(NamedTuple):
    """One action of a schedule."""

    stage: int
    kind: Kind
    microbatch: int

    def __str__(self) -> str:
        return f"{self.stage}{self.kind}{self.microbatch}"


def parse_action(text: str) -> Action:
    """Parses ``2F0``. Raises ScheduleError."""
    match = _TEXT.match(text) if isinstance(text, str) else None
    if match is None:
        raise ScheduleError(f"{text!r} is not an action: write stage, one of F B I W, and micro-batch, such as '2F0'")
    return Action(int(match.group(1)), cast(Kind, match.group(2)), int(match.group(3)))


Schedule = dict[int, tuple[Action, ...]]
"""Rank -> its actions in order."""
