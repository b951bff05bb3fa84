"""How many models can be captured: one or two of every timm module and classes of transformers of every family.

Usage::

    python benchmarks/capture_breadth.py [--only timm|transformers] [--verify] [--rows FILE] [--seconds S] [--write]
                                         [NAME ...]

Every model is captured without values in a process of its own, in training mode with its loss, at its own width; those
of transformers with two layers per stack. `--verify` captures it with values too, cuts it at random into five stages
and compares loss and gradients with the plain module, without dropout; large models of transformers are narrowed for
this, large ones of timm left out. `--rows` keeps what was measured in a file, from which an interrupted run goes on;
with `--seconds` it ends by itself after about that time. `--write` puts the table into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import logging
import math
import multiprocessing
import os
import platform
import statistics
import subprocess
import time
import warnings
from collections.abc import Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers

from drlpp.capture import CapturedModel, capture, capture_module, load_model
from drlpp.capture.interpret import run_stages
from drlpp.capture.loss import ModelWithLoss
from drlpp.files import write_atomically
from drlpp.graph import OpGraph
from tables import write_section

TIME_LIMIT_S = 180
VERIFIED_BYTES, VERIFIED_FLOP = 250e6, 2e10
"""Models with more bytes of parameters, or more FLOP of a forward pass, are too large to be compared as they are."""
NARROW = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embed_dim"), 256),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "d_inner", "encoder_ffn_dim", "decoder_ffn_dim"), 512),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 128),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 8),
    **dict.fromkeys(("projection_size", "projection_dim"), 256),
    "head_dim": 64, "vocab_size": 1024, "pad_token_id": 0,
}  # fmt: skip
"""Fields of a configuration, and what they are for a model that is too large to be compared."""
SEVERAL_MODELS = 20
"""timm modules with at least so many models give two of them."""
LAYER_FIELDS = (
    "num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers",
    "num_decoder_layers", "num_encoder_layers", "depth",
)  # fmt: skip
TRANSFORMERS = {
    "encoder": """AlbertForMaskedLM BertForPreTraining BertForQuestionAnswering BertForMultipleChoice RobertaForMaskedLM
        XLMRobertaForTokenClassification DebertaV2ForSequenceClassification DistilBertForQuestionAnswering
        MPNetForMaskedLM FunnelForMaskedLM ConvBertForMaskedLM NystromformerForMaskedLM FNetForMaskedLM
        ModernBertForMaskedLM BigBirdForMaskedLM MobileBertForMaskedLM SqueezeBertForMaskedLM RoFormerForMaskedLM
        EsmForMaskedLM LongformerForMaskedLM CanineForTokenClassification LayoutLMForTokenClassification""",
    "decoder": """GPT2LMHeadModel GPTNeoXForCausalLM GPTJForCausalLM GPTNeoForCausalLM OPTForCausalLM BloomForCausalLM
        LlamaForCausalLM MistralForCausalLM Qwen2ForCausalLM Qwen3ForCausalLM Gemma2ForCausalLM PhiForCausalLM
        Phi3ForCausalLM FalconForCausalLM StableLmForCausalLM CohereForCausalLM Olmo2ForCausalLM XGLMForCausalLM
        CTRLLMHeadModel XLNetLMHeadModel Starcoder2ForCausalLM GraniteForCausalLM""",
    "mixture of experts": """MixtralForCausalLM Qwen2MoeForCausalLM Qwen3MoeForCausalLM OlmoeForCausalLM
        DeepseekV3ForCausalLM GraniteMoeForCausalLM GptOssForCausalLM SwitchTransformersForConditionalGeneration""",
    "state space": """MambaForCausalLM Mamba2ForCausalLM FalconMambaForCausalLM RecurrentGemmaForCausalLM
        RwkvForCausalLM JambaForCausalLM""",
    "encoder-decoder": """T5ForConditionalGeneration MT5ForConditionalGeneration BartForConditionalGeneration
        MBartForConditionalGeneration PegasusForConditionalGeneration MarianMTModel M2M100ForConditionalGeneration
        LEDForConditionalGeneration BlenderbotSmallForConditionalGeneration LongT5ForConditionalGeneration
        ProphetNetForConditionalGeneration""",
    "vision": """ViTForImageClassification DeiTForImageClassification BeitForImageClassification
        SwinForImageClassification Swinv2ForImageClassification ConvNextForImageClassification
        ResNetForImageClassification RegNetForImageClassification MobileNetV2ForImageClassification
        MobileViTForImageClassification EfficientNetForImageClassification SegformerForSemanticSegmentation
        PoolFormerForImageClassification Dinov2ForImageClassification FocalNetForImageClassification
        LevitForImageClassification CvtForImageClassification DPTForDepthEstimation ViTMAEForPreTraining
        VideoMAEForVideoClassification TimesformerForVideoClassification YolosForObjectDetection""",
    "audio": """Wav2Vec2ForCTC HubertForCTC WavLMForCTC SEWForCTC UniSpeechSatForCTC ASTForAudioClassification
        WhisperForConditionalGeneration Speech2TextForConditionalGeneration Data2VecAudioForCTC""",
    "multimodal": """CLIPModel SiglipModel AltCLIPModel ChineseCLIPModel AlignModel GroupViTModel BlipModel
        ViltForQuestionAnswering LlavaForConditionalGeneration GitForCausalLM BridgeTowerModel FlavaModel""",
    "other": "PatchTSTForPrediction TimeSeriesTransformerForPrediction PerceiverForMaskedLM DecisionTransformerModel",
}

MORE_OPTIONS = {
    "TimeSeriesTransformerForPrediction": {"prediction_length": "12", "context_length": "12"},
    "LlavaForConditionalGeneration": {"text_config.vocab_size": "32064"},
}
"""Fields that a configuration must be given."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A model to capture."""

    family: str
    name: str
    spec: str


@dataclasses.dataclass(frozen=True)
class Row:
    """What came of it. `error` is the largest relative difference of loss and gradients, if they were compared."""

    case: Case
    seconds: float
    failure: str = ""
    num_nodes: int = 0
    num_ops: int = 0
    error: float | None = None


def timm_cases() -> Iterable[Case]:
    for module in timm.list_modules():
        models = timm.list_models(module=module)
        chosen = {models[0], models[-1]} if len(models) >= SEVERAL_MODELS else set(models[:1])
        for name in sorted(chosen):
            yield Case("timm", name, f"timm:{name}?batch_size=2")


def transformers_cases() -> Iterable[Case]:
    for family, names in TRANSFORMERS.items():
        for name in names.split():
            config = getattr(transformers, name).config_class()
            options = {"batch_size": "2", **_few_layers("", config), **MORE_OPTIONS.get(name, {})}
            yield Case(family, name, f"transformers:{name}?{'&'.join(f'{k}={v}' for k, v in options.items())}")


def _few_layers(prefix: str, config: Any) -> dict[str, str]:
    """Options that set the number of layers to two, where it is one number and no other field lists layers."""
    out: dict[str, str] = {}
    if any(key in vars(config) for key in ("backbone_out_indices", "layer_types", "layers_block_type")):
        return out
    for key in LAYER_FIELDS:
        if key in vars(config) and type(getattr(config, key)) is int and getattr(config, key) > 2:
            out[prefix + key] = "2"
    for key, value in vars(config).items():
        if isinstance(value, transformers.PreTrainedConfig):
            out |= _few_layers(f"{prefix}{key}.", value)
    return out


def narrow(prefix: str, config: Any) -> dict[str, str]:
    """Options that make a model of transformers narrow; its number of layers stays."""
    keep = {"vocab_size", "pad_token_id"} if hasattr(config, "image_token_id") or prefix else set()
    fields = vars(config)
    out = {prefix + k: str(v) for k, v in NARROW.items() if type(fields.get(k)) is int and k not in keep}
    if type(fields.get("num_key_value_heads")) is int:
        grouped = fields["num_key_value_heads"] < fields["num_attention_heads"]
        out[prefix + "num_key_value_heads"] = "2" if grouped else "4"
    for key, value in fields.items():
        if isinstance(value, transformers.PreTrainedConfig):
            out |= narrow(f"{prefix}{key}.", value)
    return out


def compared_spec(case: Case, graph: OpGraph) -> str | None:
    """The model that stands for this one when loss and gradients are compared; None if there is none."""
    small = sum(graph.param_bytes.values()) <= VERIFIED_BYTES
    if small and sum(op.forward.flop for op in graph.ops) <= VERIFIED_FLOP:
        return case.spec
    if case.family == "timm":
        return None
    options = narrow("", getattr(transformers, case.name).config_class())
    return "&".join([case.spec, *(f"{k}={v}" for k, v in options.items())]) if options else None


def run_case(case: Case, verify: bool) -> Row:
    """Captures in a process of its own, with a time limit."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    start = time.perf_counter()
    process = context.Process(target=_child, args=(case, verify, theirs))
    process.start()
    theirs.close()
    row = Row(case, 0.0, failure=f"no result after {TIME_LIMIT_S} s")
    try:
        if ours.poll(TIME_LIMIT_S):
            row = ours.recv()
    except EOFError:
        row = Row(case, time.perf_counter() - start, failure="the process died")
    process.kill()
    process.join()
    return row


def _child(case: Case, verify: bool, connection: Connection) -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    start = time.perf_counter()
    try:
        captured = capture(load_model(case.spec))
        seconds = time.perf_counter() - start
        compared = compared_spec(case, captured.graph) if verify else None
        difference = compare(compared) if compared else None
        row = Row(case, seconds, "", len(captured.op_of_node), captured.graph.num_ops, difference)
    except Exception as error:  # noqa: BLE001 (a benchmark records every failure)
        row = Row(case, time.perf_counter() - start, failure=f"{type(error).__name__}: {error}")
    connection.send(row)


def compare(spec: str) -> float | None:
    """Largest relative difference of loss and gradients between five random stages and the plain module; None if the
    model draws random numbers of its own, or does not run with these options."""
    try:
        example = load_model(spec).build(device="cpu", seed=0)
        _without_dropout(example.module)
        plain = ModelWithLoss(copy.deepcopy(example.module).train(), example.loss_fn)
        first, again = (copy.deepcopy(plain)(*example.args, **example.kwargs) for _ in range(2))
    except Exception:  # noqa: BLE001 (the plain module does not run, so there is nothing to compare with)
        return None
    if not torch.equal(first, again):
        return None
    loss = plain(*example.args, **example.kwargs)
    loss.backward()
    captured = capture_module(example.module, example.args or dict(example.kwargs), example.loss_fn)
    staged = run_stages(captured, random_partition(captured, 5, np.random.default_rng(0)))
    params = dict(captured.module.named_parameters())
    squares = [0.0, 0.0]
    for name, expected in plain.model.named_parameters():
        if expected.grad is not None:
            found = params[captured.aliases.get(name, name)].grad
            if found is None:
                raise RuntimeError(f"parameter {name!r} got no gradient")
            squares[0] += float((found - expected.grad).double().square().sum())
            squares[1] += float(expected.grad.double().square().sum())
    gradient_error = math.sqrt(squares[0] / squares[1]) if squares[1] else 0.0
    return max(gradient_error, abs(float(staged) - float(loss.detach())) / max(abs(float(staged)), 1e-12))


def random_partition(captured: CapturedModel, num_stages: int, rng: np.random.Generator) -> list[int]:
    """A random legal partition, with branches in different stages."""
    graph, stages = captured.graph, []
    for before in graph.predecessors:
        start = int(rng.integers(num_stages)) if stages and rng.random() < 0.3 else 0
        low = max((stages[i] for i in before), default=start)
        stages.append(min(num_stages - 1, low + int(rng.random() < num_stages / min(graph.num_ops, 60))))
    return stages


def _without_dropout(module: torch.nn.Module) -> None:
    for owner in [*module.modules(), *(m.config for m in module.modules() if hasattr(m, "config"))]:
        for key, value in list(vars(owner).items()):
            if ("drop" in key or (key == "p" and "rop" in type(owner).__name__)) and isinstance(value, float):
                setattr(owner, key, 0.0)


def markdown(rows: list[Row]) -> str:
    """The figures and the list of failures."""
    lines = [
        f"torch {torch.__version__}, timm {timm.__version__}, transformers {transformers.__version__}, "
        f"{platform.machine()}, {os.cpu_count()} cores with a load of {os.getloadavg()[2]:.0f}, commit {_commit()}.",
        "",
        "The error is the largest relative difference of loss and gradients between the captured graph, run op by op "
        "in five random stages, and the plain module, over a sample of each family.",
        "",
        "| family | models | captured | median s | slowest s | median fx nodes | median ops | largest error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    families = list(dict.fromkeys(r.case.family for r in rows))
    for title, chosen in [*((f, [r for r in rows if r.case.family == f]) for f in families), ("all", rows)]:
        good = [r for r in chosen if not r.failure]
        errors = [r.error for r in good if r.error is not None]
        figures = ["-"] * 4
        if good:
            figures = [
                f"{statistics.median(r.seconds for r in good):.1f}",
                f"{max(r.seconds for r in good):.1f}",
                f"{statistics.median(r.num_nodes for r in good):.0f}",
                f"{statistics.median(r.num_ops for r in good):.0f}",
            ]
        error = f"{max(errors):.0e} ({len(errors)} compared)" if errors else "-"
        lines.append(f"| {title} | {len(chosen)} | {len(good)} | {' | '.join(figures)} | {error} |")
    lines.append("")
    for r in rows:
        if r.failure:
            lines.append(f"- `{r.case.name}` ({r.case.family}): {r.failure}")
    return "\n".join(lines)


def _commit() -> str:
    out = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return out.stdout.strip() or "unknown"


def load_rows(path: Path | None) -> dict[str, Row]:
    """Specification -> row, from a file that an earlier run wrote."""
    if path is None or not path.exists():
        return {}
    rows = [Row(**{**entry, "case": Case(**entry["case"])}) for entry in json.loads(path.read_text())]
    return {row.case.spec: row for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help="only these models")
    parser.add_argument("--only", choices=["timm", "transformers"])
    parser.add_argument("--verify", action="store_true", help="compare loss and gradients with the plain module")
    parser.add_argument("--rows", type=Path, help="JSON file of rows; models in it are not captured again")
    parser.add_argument("--seconds", type=float, default=math.inf, help="start no further model after so many seconds")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    cases = [*timm_cases()] if options.only != "transformers" else []
    cases += [*transformers_cases()] if options.only != "timm" else []
    if options.names:
        cases = [c for c in cases if c.name in options.names]
    known = load_rows(options.rows)
    rows = []
    start = time.perf_counter()
    for case in cases:
        if case.spec not in known and time.perf_counter() - start > options.seconds:
            raise SystemExit(f"{len(rows)} of {len(cases)} models are done: the same command goes on")
        row = known.get(case.spec) or run_case(case, options.verify)
        rows.append(row)
        known[case.spec] = row
        if options.rows is not None:
            write_atomically(options.rows, json.dumps([dataclasses.asdict(r) for r in known.values()], indent=1))
        what = row.failure or f"{row.num_nodes} fx nodes, {row.num_ops} ops" + (
            "" if row.error is None else f", error {row.error:.1e}"
        )
        print(f"{'FAILED' if row.failure else 'ok':6} {row.seconds:6.1f} s  {case.spec}  {what}", flush=True)
    text = markdown(rows)
    print(text)
    if options.write:
        write_section("capture-breadth", text)


if __name__ == "__main__":
    main()
