"""Models that do not fit into this machine: seconds and memory of `drlpp capture`, which allocates no weights.

    python benchmarks/large_capture.py

Each row is one ``drlpp capture MODEL -o FILE`` in a process of its own: wall-clock time from the start of Python to the
written file, and the largest resident memory. Writes the table between the markers ``large-capture`` of
docs/benchmarks.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from drlpp.graph.readers import read_graph
from drlpp.units import format_bytes, format_flop
from tables import machine, markdown, write_section

LLAMA = "transformers:LlamaForCausalLM?num_key_value_heads=8&vocab_size=128256&batch_size=1&seq_len=4096&dtype=bfloat16"
MODELS = {
    "Llama 70B": LLAMA + "&num_hidden_layers=80&hidden_size=8192&intermediate_size=28672&num_attention_heads=64",
    "Llama 405B": LLAMA + "&num_hidden_layers=126&hidden_size=16384&intermediate_size=53248&num_attention_heads=128",
}


def row(name: str, model: str, folder: Path) -> list[str]:
    """Captures a model, and says what it took and what came out."""
    file = folder / "graph.json"
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "drlpp", "capture", model, "-o", str(file)])
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status != 0:
        sys.exit(f"the capture of {model} failed")
    graph = read_graph(file)
    flop = sum(op.forward.flop + op.input_grad.flop + op.weight_grad.flop for op in graph.ops)
    figures = [f"{seconds:.0f}", f"{usage.ru_utime + usage.ru_stime:.0f}", format_bytes(usage.ru_maxrss * 1024.0)]
    sizes = [f"{graph.num_ops:,}", format_bytes(sum(graph.param_bytes.values())), format_flop(flop)]
    return [name, *figures, *sizes]


def main() -> None:
    """Captures all, and writes the table."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(name, model, Path(folder)) for name, model in MODELS.items()]
    header = ["model", "seconds", "CPU seconds", "peak memory", "ops", "parameters", "FLOP of a micro-batch"]
    text = f"One sequence of 4,096 tokens, bfloat16, {machine()}.\n\n{markdown(header, rows)}"
    print(text)
    write_section("large-capture", text)


if __name__ == "__main__":
    main()
