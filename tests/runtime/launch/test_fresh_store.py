"""A part of a store for one start of the ranks."""

import threading

from torch.distributed import HashStore

from drlpp.runtime.launch.fresh_store import fresh_store


def start(store):
    """All ranks start at once; the first of them leaves its name in the store."""
    parts = {}

    def join(rank):
        parts[rank] = fresh_store(store, rank, 3)

    threads = [threading.Thread(target=join, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    parts[0].set("who", "one start")
    return parts


def test_ranks_of_a_start_see_each_other_and_not_the_start_before():
    store = HashStore()
    before, now = start(store), start(store)
    now[0].set("who", "another start")
    assert {part.get("who") for part in before.values()} == {b"one start"}
    assert {part.get("who") for part in now.values()} == {b"another start"}
