"""Captured graphs kept on disk, so that a model of a library is captured once per machine.

The key is the model's specification with the versions of PyTorch and the libraries and a digest of this package's own
capture code, so a changed capture never meets an old graph. Models in a user's file are not kept: their code may
depend on anything.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import tempfile
from importlib import metadata
from pathlib import Path

from drlpp.capture.capturing import capture_graph
from drlpp.errors import DrlppError
from drlpp.files import read_text, write_atomically
from drlpp.graph import OpGraph, graph_from_dict, graph_to_dict

LIBRARIES = ("timm", "transformers")
_CODE = ("capture/**/*.py", "graph/op_graph.py", "graph/serialize.py", "graph/splits.py")

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where captured graphs are kept: ``$DRLPP_CACHE``, or ``drlpp`` in the user's cache folder.

    A user without a home, as in some containers, has the folder for temporary files.
    """
    given = os.environ.get("DRLPP_CACHE")
    if given:
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "drlpp"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "drlpp"


def kept_graph(spec: str, folder: Path | None = None) -> OpGraph:
    """The graph of ``timm:NAME`` or ``transformers:CLASS`` from the cache, or captured now and kept.

    A cache that cannot be read or written is left alone: the model is captured.

    Args:
        folder: instead of `cache_folder`.

    Raises:
        CaptureError: the model cannot be captured.
    """
    if spec.partition(":")[0] not in LIBRARIES:
        return capture_graph(spec)
    path = (folder or cache_folder()) / "graphs" / f"{_key(spec)}.json"
    if path.is_file():
        try:
            return graph_from_dict(json.loads(read_text(path, "captured graph")))
        except (DrlppError, json.JSONDecodeError) as error:
            log.warning("captured graph %s cannot be read (%s): capturing again", path, error)
    graph = capture_graph(spec)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(graph_to_dict(graph)))
    except (DrlppError, OSError) as error:
        log.warning("captured graph of %s is not kept: %s", spec, error)
    return graph


def _key(spec: str) -> str:
    versions = {name: _version(name) for name in ("torch", *LIBRARIES)}
    text = json.dumps([spec, versions, _code_digest()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


@functools.cache
def _code_digest() -> str:
    package = Path(__file__).parents[1]
    files = sorted(p for pattern in _CODE for p in package.glob(pattern))
    return hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest()
