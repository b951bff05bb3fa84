"""Reading operator graphs from files: our JSON, PipeDream, dnn-partitioning, Piper, told apart by content."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from drlpp.errors import GraphError, InputError
from drlpp.files import read_text
from drlpp.graph.op_graph import OpGraph
from drlpp.graph.readers.dnn_partitioning import read_dnn_partitioning
from drlpp.graph.readers.pipedream import looks_like_pipedream, read_pipedream
from drlpp.graph.readers.piper import read_piper
from drlpp.graph.serialize import graph_from_dict

FORMATS = "a graph JSON of drlpp, PipeDream's graph.txt, or a JSON of dnn-partitioning or Piper"


def read_graph(path: Path) -> OpGraph:
    """Reads an operator graph from a file; its `source` becomes the path.

    Raises:
        GraphError: the file cannot be read, is of no known format, or its content is not usable.
    """
    try:
        text = read_text(path, "graph file")
    except InputError as error:
        raise GraphError(str(error)) from error
    graph = read_graph_text(text, path.stem, str(path))
    return dataclasses.replace(graph, source=graph.source or str(path))


def read_graph_text(text: str, name: str, where: str) -> OpGraph:
    """Parses the text of a graph file. Raises GraphError, with `where` in the message."""
    if looks_like_pipedream(text):
        return read_pipedream(text, name, where)
    if not text.lstrip().startswith("{"):
        raise GraphError(f"{where}: not a known format: give {FORMATS}")
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise GraphError(f"{where} line {error.lineno}: not JSON: {error.msg}") from error
    if data.get("format") == "drlpp-graph":
        return graph_from_dict(data, where)
    nodes = data.get("nodes")
    if isinstance(nodes, list) and isinstance(data.get("edges"), list) and nodes and isinstance(nodes[0], dict):
        try:
            if "TMPCs" in nodes[0]:
                return read_piper(data, name, where)
            if "fpgaLatency" in nodes[0]:
                return read_dnn_partitioning(data, name, where)
        except GraphError as error:
            raise error if str(error).startswith(where) else GraphError(f"{where}: {error}") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise GraphError(f"{where}: an entry has the wrong form: {error}") from error
    raise GraphError(f"{where}: JSON of no known format: give {FORMATS}")


__all__ = ["FORMATS", "read_dnn_partitioning", "read_graph", "read_graph_text", "read_pipedream", "read_piper"]
