"""Pre-trains the policy that the package ships: ``python benchmarks/agent_pretrain.py FOLDER [--resume]``.

The corpus is drawn (`drlpp.agent.corpus`) and, in two of five draws, a captured model of `MODELS`, whose families are
those of the training split. ``--ship`` copies the weights of the folder, without the optimizer, into the package.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import subprocess
import sys
from pathlib import Path

import torch

from drlpp.agent.checkpoint import SHIPPED, load_checkpoint, save_checkpoint
from drlpp.agent.pretrain import CHECKPOINT, PretrainConfig, pretrain
from drlpp.capture import capture, load_model
from drlpp.files import write_atomically

WEIGHTS = Path(__file__).parents[1] / "src" / "drlpp" / "agent" / "weights"

MODELS = (
    "timm:resnet50?batch_size=16",
    "timm:resnet101?batch_size=8",
    "timm:resnet18?batch_size=32",
    "timm:resnext50_32x4d?batch_size=8",
    "timm:vgg16?batch_size=16",
    "timm:vgg11?batch_size=32",
    "timm:densenet121?batch_size=16",
    "timm:mobilenetv3_large_100?batch_size=32",
    "timm:vit_base_patch16_224?batch_size=8",
    "timm:vit_small_patch16_224?batch_size=16",
    "timm:mixer_b16_224?batch_size=8",
    "transformers:BertModel",
    "transformers:DistilBertForMaskedLM",
    "transformers:GPT2LMHeadModel",
    "transformers:GPT2LMHeadModel?n_layer=6&n_embd=512&n_head=8",
    "transformers:T5ForConditionalGeneration",
    "transformers:BartForConditionalGeneration",
)


def ship(folder: Path) -> None:
    """Writes the weights, and beside them the record of the run with its curve, into the package."""
    policy, record, _ = load_checkpoint(folder / CHECKPOINT)
    WEIGHTS.mkdir(exist_ok=True)
    save_checkpoint(WEIGHTS / SHIPPED, policy, record)
    rows = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    curve = [row for row in rows if "validation_best_reward" in row]
    write_atomically(WEIGHTS / "policy.json", json.dumps({**record, "curve": curve}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--imitation-iterations", type=int, default=PretrainConfig().imitation_iterations)
    parser.add_argument("--iterations", type=int, default=PretrainConfig().iterations)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--ship", action="store_true", help="only copy the folder's weights into the package")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    if args.ship:
        ship(args.folder)
        return
    captured = [capture(load_model(spec)).graph for spec in MODELS]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    note = {"command": shlex.join(["python", *sys.argv]), "commit": commit}
    config = PretrainConfig(seed=args.seed, imitation_iterations=args.imitation_iterations, iterations=args.iterations)
    stop = args.minutes * 60 if args.minutes else None
    pretrain(args.folder, config, captured=captured, note=note, resume=args.resume, stop_after_s=stop)


if __name__ == "__main__":
    main()
