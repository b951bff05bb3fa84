"""What a result depends on."""

from drlpp.bench import settings as module
from drlpp.bench.settings import code_digest, commit, difference, machine, settings


def test_differences_are_named():
    now = settings(3.0)
    assert difference(now, now) == ""
    assert difference(now | {"budget_s": 4.0}, now) == "budget_s was 4.0 and is 3.0"
    other = now | {"versions": now["versions"] | {"torch": "1.0"}}
    assert difference(other, now) == f"torch was 1.0 and is {now['versions']['torch']}"
    assert difference({}, now) == "budget_s was None and is 3.0"


def test_the_digest_follows_the_code_that_plans_depend_on(tmp_path, monkeypatch):
    for name in ("planners/a.py", "agent/weights/w.safetensors", "cli/b.py", "report/page.html"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    monkeypatch.setattr(module, "PACKAGE", tmp_path)
    digests = []
    for change in ("cli/b.py", "report/page.html", "planners/a.py", "agent/weights/w.safetensors"):
        (tmp_path / change).write_text("y")
        digests.append(code_digest.__wrapped__())
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_machine_names_commit_and_versions(monkeypatch):
    assert "torch 2." in machine()
    monkeypatch.setattr(module.subprocess, "run", lambda *a, **k: (_ for _ in ()).throw(FileNotFoundError()))
    assert commit() == ""
    assert machine().startswith("commit unknown")
