"""The named suites, and suites of a user's own in YAML.

All problems come from captured models of timm and transformers, generated graphs, cluster presets and generated
clusters, so a suite needs no data files.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import pydantic

from drlpp.bench.case import Case, Suite
from drlpp.errors import InputError, did_you_mean
from drlpp.files import is_file, read_text
from drlpp.parsing import first_problem, parse_yaml
from drlpp.plan import Objective
from drlpp.training import Precision

_PAPER = {
    "vgg16": "timm:vgg16?batch_size=32",
    "resnet50": "timm:resnet50?batch_size=32",
    "inception-v3": "timm:inception_v3?batch_size=32",
    "gnmt-8": "generated:gnmt?layers=8&batch_size=64",
    "gnmt-16": "generated:gnmt?layers=16&batch_size=64",
    "bert-base": "transformers:BertForMaskedLM?batch_size=16&seq_len=128",
}
_LLM = {
    "gpt2-medium": "transformers:GPT2LMHeadModel?n_layer=24&n_embd=1024&n_head=16&batch_size=4&seq_len=512",
    "llama-8b": "transformers:LlamaForCausalLM?num_hidden_layers=32&hidden_size=4096&intermediate_size=14336"
    "&num_attention_heads=32&num_key_value_heads=8&vocab_size=128256&batch_size=1&seq_len=2048&dtype=bfloat16",
    "mixtral-8-layers": "transformers:MixtralForCausalLM?num_hidden_layers=8&batch_size=1&seq_len=1024&dtype=bfloat16",
    "t5-large": "transformers:T5ForConditionalGeneration?d_model=1024&num_layers=24&num_decoder_layers=24&d_ff=4096"
    "&num_heads=16&batch_size=4&seq_len=256",
    "whisper": "transformers:WhisperForConditionalGeneration?batch_size=2",
    "clip": "transformers:CLIPModel?batch_size=16",
    "llava-7b": "transformers:LlavaForConditionalGeneration?batch_size=1&dtype=bfloat16",
}
_LLAMA_70B = (
    "transformers:LlamaForCausalLM?num_hidden_layers=80&hidden_size=8192&intermediate_size=28672"
    "&num_attention_heads=64&num_key_value_heads=8&vocab_size=128256&batch_size=1&seq_len=4096&dtype=bfloat16"
)
_LLAMA_405B = (
    "transformers:LlamaForCausalLM?num_hidden_layers=126&hidden_size=16384&intermediate_size=53248"
    "&num_attention_heads=128&num_key_value_heads=8&vocab_size=128256&batch_size=1&seq_len=4096&dtype=bfloat16"
)
_UNSEEN = {
    "nasnet-large": "timm:nasnetalarge?batch_size=4",
    "efficientnet-b0": "timm:efficientnet_b0?batch_size=32",
    "convnext-tiny": "timm:convnext_tiny?batch_size=16",
    "swin-tiny": "timm:swin_tiny_patch4_window7_224?batch_size=8",
    "hrnet-w18": "timm:hrnet_w18?batch_size=8",
    "dpn68": "timm:dpn68?batch_size=16",
    "llama-8-layers": "transformers:LlamaForCausalLM?num_hidden_layers=8&hidden_size=1024&intermediate_size=2816",
    "clip": "transformers:CLIPModel",
}
_SIZES = [(ops, devices) for ops in (100, 1000, 5000) for devices in (8, 64, 1024)]


def _on(models: dict[str, str], clusters: Iterable[str], optimizer: str = "momentum") -> list[Case]:
    return [
        Case(f"{name} on {cluster}", model, cluster, optimizer=optimizer)
        for name, model in models.items()
        for cluster in clusters
    ]


def _paper() -> Suite:
    cases = _on(_PAPER, ("paper-4x4-10gbe", "paper-2x8-25gbe"))
    summary = "the models of the DRL-PP and PipeDream papers on clusters like theirs (16 V100)"
    return Suite("paper", summary, tuple(cases))


def _heterogeneous() -> Suite:
    models = {k: _PAPER[k] for k in ("resnet50", "inception-v3", "gnmt-8", "bert-base")}
    models["t5-small"] = "transformers:T5ForConditionalGeneration?batch_size=8"
    cases = _on(models, ("mixed-a100-v100-t4", "mixed-desktops"))
    drawn = ("inception-v3", "gnmt-8", "t5-small")
    cases += _on({k: models[k] for k in drawn}, ("generated:mixed-hosts?seed=2", "generated:mixed-in-host?seed=1"))
    return Suite("heterogeneous", "the same models on clusters of unequal devices and links", tuple(cases))


def _large() -> Suite:
    cases = [
        Case("dag-3000 on 64 mixed", "generated:dag?ops=3000", "generated:half-and-half?devices=64", 128),
        Case("dag-5000 on 256 mixed", "generated:dag?ops=5000", "generated:half-and-half?devices=256", 256),
        Case("dag-5000 on 1024 mixed", "generated:dag?ops=5000&seed=1", "generated:half-and-half?devices=1024", 1024),
        Case("llama-70b on 64 H100", _LLAMA_70B, "generated:dgx-h100?devices=64", 128, optimizer="adamw"),
        Case("llama-70b on 256 mixed", _LLAMA_70B, "generated:half-and-half?devices=256", 256, optimizer="adamw"),
        Case("llama-405b on 1024 H100", _LLAMA_405B, "generated:dgx-h100?devices=1024", 1024, optimizer="adamw"),
        Case("llama-405b on 512 H100", _LLAMA_405B, "generated:dgx-h100?devices=512", 512, optimizer="adamw"),
    ]
    return Suite("large", "models of 3,000 ops and more on 64 to 1,024 devices", tuple(cases))


def _branchy() -> Suite:
    models = {
        "nasnet-large": "timm:nasnetalarge?batch_size=8",
        "inception-v4": "timm:inception_v4?batch_size=16",
        "hrnet-w18": "timm:hrnet_w18?batch_size=16",
        "clip": _LLM["clip"],
        "two-tower": "generated:two-tower?seed=4",
        "unet": "generated:unet?seed=5",
    }
    cases = _on(models, ("paper-2x8-25gbe", "mixed-a100-v100-t4"))
    summary = "models whose branches can run side by side: NASNet, HRNet, two towers, multi-branch cells"
    return Suite("branchy", summary, tuple(cases))


def _llm() -> Suite:
    cases = _on(_LLM, ("nvlink-ib-2x8-a100", "mixed-a100-v100-t4"), optimizer="adamw")
    return Suite("llm", "language models and multimodal models, with AdamW's memory", tuple(cases))


def _drawn(name: str, model: str, kind: str, seed: int) -> Case:
    return Case(f"{name} on {kind}-{seed}", model, f"generated:{kind}?seed={seed}")


_WHOLE_SPACE = "pp,dp,tp,sp,zero1"
_HYBRID = {
    "llama-70b": ("decoder", 512),
    "llama-405b": ("decoder?layers=126&hidden=16384&heads=128&ffn=53248", 1024),
    "mixtral-8x7b": ("decoder?layers=32&hidden=4096&heads=32&ffn=14336&vocab=32000&experts=8", 512),
    "mixtral-8x22b": ("decoder?layers=56&hidden=6144&heads=48&ffn=16384&vocab=32768&experts=8", 512),
    "vision-language-78b": ("vision-language", 512),
    "clip-bigg": ("clip?batch_size=8", 4096),
    "dag-3000": ("dag?ops=3000&seed=2", 256),
    "dag-5000": ("dag?ops=5000&seed=3", 1024),
    "nasnet": ("nasnet?seed=5", 2048),
    "unet": ("unet?seed=5", 1024),
    "encoder-decoder": ("encoder-decoder?seed=6", 2048),
}
"""Generated model and samples per step."""
_HYBRID_PROBLEMS = (
    ("llama-70b", "devices=64"),
    ("llama-70b", "devices=128&mixed=1"),
    ("llama-70b", "devices=384&kinds=3"),
    ("llama-405b", "devices=512"),
    ("llama-405b", "devices=1024&kinds=4"),
    ("mixtral-8x7b", "devices=64&first=1"),
    ("mixtral-8x7b", "devices=128&kinds=4"),
    ("mixtral-8x22b", "devices=256&mixed=1"),
    ("vision-language-78b", "devices=128"),
    ("vision-language-78b", "devices=256&kinds=4"),
    ("clip-bigg", "devices=96&kinds=3"),
    ("clip-bigg", "devices=64&first=2&mixed=1"),
    ("dag-3000", "devices=256"),
    ("dag-5000", "devices=1024&kinds=4"),
    ("nasnet", "devices=64&first=1"),
    ("unet", "devices=64&first=2&mixed=1"),
    ("encoder-decoder", "devices=96&kinds=3&first=1"),
)
"""Model, and options of ``generated:pods``."""


def _hybrid_large() -> Suite:
    cases = [
        Case(
            f"{name} on pods {pods.replace('&', ' ')}",
            f"generated:{_HYBRID[name][0]}",
            f"generated:pods?{pods}",
            optimizer="adamw",
            precision="bf16",
            global_batch=_HYBRID[name][1],
            parallelism=_WHOLE_SPACE,
        )
        for name, pods in _HYBRID_PROBLEMS
    ]
    summary = "large and branchy models on 64 to 1,024 unequal devices, with tensor parallelism and ZeRO-1 as choices"
    return Suite("hybrid-large", summary, tuple(cases))


def _generalisation() -> Suite:
    cases = []
    for kind in ("desktops", "uneven-hosts"):
        for family in ("nasnet", "two-tower"):
            cases += [_drawn(f"{family}-{seed}", f"generated:{family}?seed={seed}", kind, seed) for seed in range(4)]
        cases += [_drawn(name, model, kind, seed) for seed, (name, model) in enumerate(_UNSEEN.items(), start=10)]
    summary = "families of models and kinds of clusters that the training of the shipped policy never saw"
    return Suite("generalisation", summary, tuple(cases))


def _planning_time() -> Suite:
    cases = [
        Case(f"{n} ops, {d} devices", f"generated:dag?ops={n}&seed={n}", f"generated:half-and-half?devices={d}", 64)
        for n, d in _SIZES
    ]
    summary = "random graphs of 100 to 5,000 ops on 8 to 1,024 devices: how long planners take, and what they reach"
    return Suite("planning-time", summary, tuple(cases))


def _smoke() -> Suite:
    cases = [
        Case("gnmt-2 on desktops", "generated:gnmt?layers=2&batch_size=8&seq_len=20", "mixed-desktops"),
        Case("dag-40 on local-4", "generated:dag?ops=40", "local-4", 8, Objective.STEADY_STATE),
    ]
    return Suite("smoke", "two small problems, to try things out", tuple(cases))


def suites() -> dict[str, Suite]:
    """Name -> suite."""
    made = (
        _paper(),
        _heterogeneous(),
        _large(),
        _hybrid_large(),
        _branchy(),
        _llm(),
        _generalisation(),
        _planning_time(),
        _smoke(),
    )
    return {suite.name: suite for suite in made}


class _CaseFile(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    name: str
    model: str
    cluster: str
    num_microbatches: Annotated[int, pydantic.Field(ge=1)] | None = None
    objective: Objective = Objective.ITERATION_TIME
    optimizer: str = "momentum"
    precision: Precision | None = None
    global_batch: Annotated[int, pydantic.Field(ge=1)] | None = None
    parallelism: str = "pp,dp"


class _SuiteFile(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    name: str
    summary: str = ""
    cases: list[_CaseFile]


_KEYS = [*_SuiteFile.model_fields, *_CaseFile.model_fields]


def find_suite(name_or_path: str) -> Suite:
    """A suite by its name, or of a YAML file: ``name``, ``summary``, and ``cases`` with the fields of `Case`.

    Raises:
        InputError: neither a suite nor a readable, valid file.
    """
    known = suites()
    if name_or_path in known:
        return known[name_or_path]
    path = Path(name_or_path)
    if not is_file(path):
        raise InputError(
            f"suite {name_or_path!r} is neither known nor a YAML file: {did_you_mean(name_or_path, known)}suites are "
            f"{', '.join(known)}"
        )
    try:
        data = _SuiteFile.model_validate(parse_yaml(read_text(path, "suite"), str(path), InputError))
    except pydantic.ValidationError as error:
        raise InputError(f"{path}: {first_problem(error, _KEYS)}: see docs/bench.md for the form of a suite") from error
    return Suite(data.name, data.summary, tuple(Case(**case.model_dump()) for case in data.cases))
