"""A store for one start of the ranks, within that which torchrun keeps over all starts."""

from __future__ import annotations

import time
import uuid

from drlpp.torch_private import PrefixStore, Store

_LOOK_S, _PATIENCE_S = 0.02, 1.0


def fresh_store(store: Store, rank: int, world_size: int) -> Store:
    """A part of the store that this start of the ranks has for itself.

    torchrun keeps its store when it starts ranks again, with the addresses of those that were there before. Rank 0
    makes up a name, and tells it to each rank that answers, under a name that this one has made up: so both are there
    now.
    """
    own = uuid.uuid4().hex
    if rank == 0:
        store.set("drlpp/start", own)
        others = [store.get(f"drlpp/{own}/{other}").decode() for other in range(1, world_size)]
        for other in others:
            store.set(f"drlpp/{other}", own)
        return PrefixStore(f"drlpp-{own}", store)
    while True:
        offer = store.get("drlpp/start").decode()
        store.set(f"drlpp/{offer}/{rank}", own)
        deadline = time.monotonic() + _PATIENCE_S  # the offer may be one of an earlier start
        while time.monotonic() < deadline:
            if store.check([f"drlpp/{own}"]):
                return PrefixStore(f"drlpp-{store.get(f'drlpp/{own}').decode()}", store)
            time.sleep(_LOOK_S)
