"""``drlpp clusters``, ``drlpp devices``, ``drlpp planners``, ``drlpp versions``: what there is."""

from __future__ import annotations

from typing import Annotated

import typer

from drlpp.cli.inputs import AsJson
from drlpp.cli.terminal import out, print_json


def register(app: typer.Typer) -> None:
    app.command("clusters", epilog="Example:\n\ndrlpp clusters mixed-desktops > my-cluster.yaml")(clusters)
    app.command("devices")(devices)
    app.command("planners")(planners)
    app.command("versions")(versions)


def clusters(
    name: Annotated[str | None, typer.Argument(help="Print this preset as YAML, to start your own from.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the cluster presets, or print one as YAML."""
    import yaml
    from rich.table import Table

    from drlpp.cluster import cluster_presets, load_cluster
    from drlpp.errors import ClusterError

    presets = cluster_presets()
    if name is not None:
        if name not in presets:
            raise ClusterError(f"cluster preset {name!r} is not known: use one of {', '.join(presets)}")
        preset = presets[name]
        if as_json:
            print_json(preset.spec)
        else:
            typer.echo(f"# {preset.description}\n# source: {preset.source}")
            typer.echo(yaml.safe_dump(preset.spec, sort_keys=False, default_flow_style=None), nl=False)
        return
    if as_json:
        print_json({p.name: {"description": p.description, "source": p.source} for p in presets.values()})
        return
    table = Table("preset", "devices", "what it is", "source of the numbers")
    for p in presets.values():
        table.add_row(p.name, str(load_cluster(p.name).num_devices), p.description, p.source)
    out().print(table)


def devices(as_json: AsJson = False) -> None:
    """List the devices of the database, and how far off their op times were where somebody measured them."""
    from rich.table import Table

    from drlpp.cost.device_summary import device_summaries

    summaries = device_summaries()
    if as_json:
        print_json({s.name: s.as_dict() for s in summaries})
        return
    table = Table("device", "memory", "TFLOP/s", "error of op times (mean)", "measured by")
    for s in summaries:
        peaks = ", ".join(f"{dtype} {peak / 1e12:g}" for dtype, peak in s.peak_flops)
        errors = "; ".join(
            f"{dtype}: " + ", ".join(f"{kind} {error:.0%}" for kind, error in found.items())
            for dtype, found in s.errors.items()
        )
        table.add_row(s.name, f"{s.memory_bytes / 1e9:g} GB", peaks, errors or s.without, ", ".join(s.sources))
    out().print(table)


def planners(as_json: AsJson = False) -> None:
    """List the planners."""
    from rich.table import Table

    from drlpp.solving import planner_summaries

    summaries = planner_summaries()
    if as_json:
        print_json(summaries)
        return
    table = Table("planner", "what it does")
    for name, summary in summaries.items():
        table.add_row(name, summary)
    out().print(table)


def versions(as_json: AsJson = False) -> None:
    """Print the versions that matter for a bug report."""
    import platform
    from importlib import metadata

    from drlpp._version import __version__

    found = {"drlpp": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in ("torch", "torchvision", "torch_geometric", "numpy", "timm", "transformers", "highspy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    if as_json:
        print_json(found)
        return
    for name, version in found.items():
        typer.echo(f"{name:16} {version}")
