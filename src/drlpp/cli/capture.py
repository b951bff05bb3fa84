"""``drlpp capture`` and ``drlpp profile``: a model's operator graph, with analytic or measured costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drlpp.cli import inputs
from drlpp.cli.checks import check_model, check_output, is_graph_file
from drlpp.cli.terminal import counter, say, working
from drlpp.units import format_bytes, format_flop, format_time

GraphOutput = Annotated[Path, typer.Option("-o", "--output", help="Write the graph JSON here.", show_default=False)]


def register(app: typer.Typer) -> None:
    app.command("capture", epilog="Example:\n\ndrlpp capture timm:inception_v3 -o graph.json")(capture)
    app.command("profile", epilog="Example:\n\ndrlpp profile timm:resnet18?batch_size=4 -o graph.json")(profile)


def capture(model: inputs.Model, output: GraphOutput) -> None:
    """Capture a model's operator graph (no weights are allocated)."""
    check_output(output)
    check_model(model)
    from drlpp.graph import save_graph

    graph = inputs.load_graph(model, batch_axis=True)
    save_graph(graph, output)
    flop = sum(op.forward.flop + op.input_grad.flop + op.weight_grad.flop for op in graph.ops)
    say(
        f"{output}: {graph.num_ops} ops, {len(graph.edges)} edges, {format_flop(flop)} per micro-batch of "
        f"{graph.samples_per_microbatch} samples, {format_bytes(sum(graph.param_bytes.values()))} of parameters"
    )


def profile(
    model: inputs.Model,
    output: GraphOutput,
    device: Annotated[str, typer.Option("--device", help="Torch device to measure on: cpu, cuda, cuda:1.")] = "cpu",
    device_type: Annotated[
        str,
        typer.Option("--device-type", help="Device type of the cluster file that the times are for [default: any]."),
    ] = "",
    repeats: Annotated[int, typer.Option("--repeats", help="Timed repeats per op.", min=1)] = 5,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes",
            help="On a CPU, measure how much up to so many processes slow each other down [default: the cores].",
            min=1,
            show_default=False,
        ),
    ] = None,
    cache: Annotated[Path | None, typer.Option("--cache", help="Keep measured times here and resume from it.")] = None,
) -> None:
    """Measure the time of every op on this machine's device, and write the graph with these times."""
    check_output(output)
    check_output(cache)
    check_model(model)
    from drlpp.errors import InputError

    if is_graph_file(model):
        raise InputError(
            f"{model} is a graph file: profile needs a model that can run (timm:, transformers:, FILE.py:)"
        )
    from drlpp import capture as capturing
    from drlpp.graph import REFERENCE, save_graph

    with working(f"capturing {model}"):
        captured = capturing.capture(
            capturing.load_model(model), device="cpu", kernels="cpu" if device == "cpu" else "gpu"
        )
    with counter("profile") as progress:
        measured = capturing.profile(
            captured,
            device=device,
            key=device_type or REFERENCE,
            measured_on="" if device_type else capturing.database_name(device),
            cache=cache,
            repeats=repeats,
            processes=processes,
            progress=progress,
        )
    save_graph(measured.graph, output)
    say(
        f"{output}: {measured.graph.num_ops} ops, {format_time(measured.step_s)} per micro-batch, forward and backward "
        f"({measured.num_measured} distinct calls measured now)"
    )
