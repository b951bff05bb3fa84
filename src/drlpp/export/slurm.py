"""Slurm: a job script that runs a plan with one task for each host. Source: the manual pages of sbatch and srun.

The hosts are whole (``--exclusive``), so devices have the numbers of the cluster file. Slurm sorts its list of nodes,
so a task finds its node rank by ``SLURMD_NODENAME``.
"""

from __future__ import annotations

from drlpp.export.starting import GRACE_S, hosts_of, indented, start_here
from drlpp.plan import Plan


def slurm(plan: Plan) -> str:
    """The job script. Raises PlanError."""
    hosts = hosts_of(plan, "Slurm")
    start = start_here(
        hosts, name="SLURMD_NODENAME", address=hosts[0].name, port='"${MASTER_PORT:-29500}"', plan='"$PLAN"'
    )
    return f"""#!/bin/bash
# {plan.graph.name} on {plan.cluster.name}: sbatch FILE [PLAN [OPTION OF drlpp run]...]
# Hosts have their names in the cluster file; the folder of the job is shared by all of them.
#SBATCH --job-name=drlpp-run
#SBATCH --nodes={len(hosts)}
#SBATCH --ntasks-per-node=1
#SBATCH --nodelist={",".join(host.name for host in hosts)}
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --requeue
#SBATCH --signal=TERM@{GRACE_S}
#SBATCH --open-mode=append
set -euo pipefail
export PLAN=${{1:-plan.json}}
shift || true

start_node() {{  # on every host, once
{indented(start)}}}
export -f start_node
srun --ntasks-per-node=1 --kill-on-bad-exit=1 bash -c 'start_node "$@"' start_node "$@"
"""
