"""Signs of life, and the process that watches for them."""

import json
import os
import time

from drlpp.runtime.observe.heartbeat import HUNG_S, Heartbeat, Watch, Where


def test_a_rank_tells_where_it_is(tmp_path):
    path = tmp_path / "beat"
    assert Watch(path).where() == Where(what="its start")
    heart = Heartbeat(path)
    heart.follow(lambda: Where(what="1F0", waits=True))
    heart.start()
    for _ in range(500):
        if path.exists():
            break
        time.sleep(0.02)
    assert str(Watch(path).where()).startswith("waits at 1F0 (for 0 s)")


def test_a_rank_that_is_silent_hangs(tmp_path, monkeypatch):
    path, now = tmp_path / "beat", [0.0]
    path.write_text(json.dumps({"what": "0B1"}))
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watch = Watch(path)
    watch.look()
    for second in range(1, int(HUNG_S) + 2):
        assert not watch.hangs
        now[0] = float(second)
        watch.look()
    assert watch.hangs
    os.utime(path, ns=(1, 1))  # a new sign
    watch.look()
    assert watch.silent_s == 0
    now[0] += 1000  # this process was stopped itself: that says nothing of the rank
    watch.look()
    assert not watch.hangs
