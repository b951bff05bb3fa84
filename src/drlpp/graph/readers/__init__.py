"""Reading operator graphs from files, told apart by content.

Our JSON, PipeDream, dnn-partitioning, Piper, PyTorch execution traces (Chakra schema) and Kineto traces.
``et.json+kineto.json`` is an execution trace with the times of a Kineto trace of the same run. Files compressed
with gzip are decompressed, whatever their names.
"""

from __future__ import annotations

import dataclasses
import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from drlpp.errors import GraphError
from drlpp.files import decode, is_file
from drlpp.graph.op_graph import OpGraph
from drlpp.graph.readers.chakra import looks_like_chakra, read_chakra
from drlpp.graph.readers.dnn_partitioning import read_dnn_partitioning
from drlpp.graph.readers.kineto import measured_calls, read_kineto
from drlpp.graph.readers.kineto_events import is_profile
from drlpp.graph.readers.pipedream import looks_like_pipedream, read_pipedream
from drlpp.graph.readers.piper import read_piper
from drlpp.graph.serialize import graph_from_dict
from drlpp.parsing import parse_json

_PAIR = re.compile(r"(.+\.json(?:\.gz)?)\+(.+)")
_GZIP = b"\x1f\x8b"
FORMATS = (
    "a graph JSON of drlpp, PipeDream's graph.txt, a JSON of dnn-partitioning or Piper, a PyTorch execution trace or a "
    "Kineto trace"
)


def read_graph(path: Path | str) -> OpGraph:
    """Reads an operator graph from a file; its `source` becomes the path.

    Args:
        path: of a file, or ``ET+KINETO``: an execution trace and the Kineto trace of the same run.

    Raises:
        GraphError: the file cannot be read, is of no known format, or its content is not usable.
    """
    path = Path(path)
    pair = _PAIR.fullmatch(str(path))
    if pair and not is_file(path):
        graph = _read_pair(Path(pair[1]), Path(pair[2]))
    else:
        graph = read_graph_text(_text(path), _stem(path), str(path))
    return dataclasses.replace(graph, source=graph.source or str(path))


def read_graph_text(text: str, name: str, where: str) -> OpGraph:
    """Parses the text of a graph file. Raises GraphError, with `where` in the message."""
    if looks_like_pipedream(text):
        return read_pipedream(text, name, where)
    data = _json(text, where)
    if data.get("format") == "drlpp-graph":
        return graph_from_dict(data, where)
    reader = _reader(data)
    if reader is None:
        raise GraphError(f"{where}: JSON of no known format: give {FORMATS}")
    with _naming(where):
        return reader(data, name, where)


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Errors of a reader name the file, and entries of a wrong form become errors of ours."""
    try:
        yield
    except GraphError as error:
        raise error if str(error).startswith(where) else GraphError(f"{where}: {error}") from error
    except (TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
        raise GraphError(f"{where}: an entry has the wrong form: {type(error).__name__}: {error}") from error


def _stem(path: Path) -> str:
    return Path(path.stem).stem if path.suffix == ".gz" else path.stem


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return decode(gzip.decompress(data) if data.startswith(_GZIP) else data)
    except UnicodeDecodeError as error:
        raise GraphError(f"graph file {path} is not text in UTF-8: byte {error.start}") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise GraphError(
            f"cannot read graph file {path}: {reason}: give an existing file of text, or of text compressed with gzip"
        ) from error


def _json(text: str, where: str) -> Mapping[str, Any]:
    if not text.lstrip().startswith(("{", "[")):
        raise GraphError(f"{where}: not a known format: give {FORMATS}")
    data = parse_json(text, where, GraphError)
    return {"traceEvents": data} if isinstance(data, list) else dict(data)  # the other form of a Chrome trace


def _reader(data: Mapping[str, Any]) -> Callable[[Mapping[str, Any], str, str], OpGraph] | None:
    if looks_like_chakra(data):
        return read_chakra
    if is_profile(data):
        return read_kineto
    nodes = data.get("nodes")
    if isinstance(nodes, list) and isinstance(data.get("edges"), list) and nodes and isinstance(nodes[0], dict):
        if "TMPCs" in nodes[0]:
            return read_piper
        if "fpgaLatency" in nodes[0]:
            return read_dnn_partitioning
    return None


def _read_pair(execution: Path, kineto: Path) -> OpGraph:
    trace, times = _json(_text(execution), str(execution)), _json(_text(kineto), str(kineto))
    if not looks_like_chakra(trace) or not is_profile(times):
        raise GraphError(
            f"{execution}+{kineto}: the first is to be a PyTorch execution trace and the second a Kineto trace"
        )
    where = f"{execution}+{kineto}"
    with _naming(where):
        return read_chakra(trace, _stem(execution), where, measured_calls(times, where))


__all__ = [
    "FORMATS",
    "read_chakra",
    "read_dnn_partitioning",
    "read_graph",
    "read_graph_text",
    "read_kineto",
    "read_pipedream",
    "read_piper",
]
