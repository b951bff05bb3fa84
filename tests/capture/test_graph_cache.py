"""Captured graphs that are kept."""

from pathlib import Path

import pytest

from drlpp.capture import graph_cache
from drlpp.capture.graph_cache import cache_folder, kept_graph
from drlpp.graph import graph_hash
from drlpp.graph.generate.synthetic import chain_graph


@pytest.fixture
def captures(monkeypatch):
    """Specifications that were captured, by a capture that takes no time."""
    done = []

    def capture(spec):
        done.append(spec)
        return chain_graph(3)

    monkeypatch.setattr(graph_cache, "capture_graph", capture)
    return done


def test_a_model_of_a_library_is_captured_once(tmp_path, captures):
    first, second = kept_graph("timm:a", tmp_path), kept_graph("timm:a", tmp_path)
    assert captures == ["timm:a"]
    assert graph_hash(first) == graph_hash(second)
    kept_graph("timm:b", tmp_path)
    assert captures == ["timm:a", "timm:b"]


def test_changed_versions_or_code_capture_again(tmp_path, captures, monkeypatch):
    kept_graph("timm:a", tmp_path)
    monkeypatch.setattr(graph_cache, "_version", lambda package: "9.9")
    kept_graph("timm:a", tmp_path)
    monkeypatch.setattr(graph_cache, "_code_digest", lambda: "other")
    kept_graph("timm:a", tmp_path)
    assert len(captures) == 3


def test_files_of_a_user_are_never_kept(tmp_path, captures):
    for _ in range(2):
        kept_graph("model.py:make", tmp_path)
    assert len(captures) == 2
    assert not list(tmp_path.iterdir())


def test_a_damaged_cache_is_written_again(tmp_path, captures, caplog):
    kept_graph("timm:a", tmp_path)
    (path,) = (tmp_path / "graphs").iterdir()
    path.write_text("{")
    kept_graph("timm:a", tmp_path)
    assert "cannot be read" in caplog.text
    assert len(captures) == 2
    kept_graph("timm:a", tmp_path)
    assert len(captures) == 2


def test_a_cache_that_cannot_be_written_does_not_matter(tmp_path, captures, caplog):
    (tmp_path / "graphs").write_text("in the way")
    assert kept_graph("timm:a", tmp_path).num_ops == 3
    assert "is not kept" in caplog.text


def test_where_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv("DRLPP_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("DRLPP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "drlpp"


def test_versions():
    assert graph_cache._version("torch").startswith("2.")
    assert graph_cache._version("no-such-package") == ""


def test_a_user_without_a_home_has_a_folder(monkeypatch):
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("DRLPP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder().name == "drlpp"
