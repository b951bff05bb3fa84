"""Generated large models: their published numbers of parameters, how parts are joined, how groups divide them."""

import pytest

from drlpp.cluster import Link, device_preset
from drlpp.cost.sharding import shard
from drlpp.graph.generate.by_name import generated_graph
from drlpp.graph.generate.large_models import clip, decoder, vision_language


@pytest.mark.parametrize(
    ("spec", "billions"),
    [
        ("decoder", 70.55),
        ("decoder?layers=126&hidden=16384&heads=128&ffn=53248", 405.85),
        ("decoder?layers=32&hidden=4096&heads=32&ffn=14336&vocab=32000&experts=8", 46.70),
        ("vision-language", 78.26),
    ],
)
def test_parameters_are_those_of_published_models(spec, billions):
    graph = generated_graph(f"generated:{spec}")
    assert sum(graph.param_bytes.values()) / 2e9 == pytest.approx(billions, abs=0.01)
    assert graph.compute_dtype == "bfloat16"


def test_two_encoders_meet_only_in_the_loss():
    graph = clip(batch_size=2, image_layers=2, text_layers=1)
    towers = {e.src.partition(".")[0] for e in graph.edges if e.dst.partition(".")[0] != e.src.partition(".")[0]}
    assert towers == {"image", "text", "image_projection", "text_projection"}
    assert {e.src for e in graph.edges if e.dst == "loss"} == {"image_projection", "text_projection"}
    assert graph.ops[-1].name == "loss"


def test_the_decoder_reads_what_the_image_encoder_gives():
    graph = vision_language(image_layers=1, layers=1, hidden=1024, heads=8, ffn=2048, seq_len=1024)
    assert [e.dst for e in graph.edges if e.src == "projection"] == ["language.embedding"]
    embedding = next(op for op in graph.ops if op.name == "language.embedding")
    assert embedding.input_grad.bytes == 2 * graph.tensor_bytes["projection"]


@pytest.mark.parametrize(
    "graph",
    [
        decoder(layers=2, hidden=1024, heads=8, ffn=4096, vocab=4096, seq_len=2048, experts=8),
        clip(batch_size=64, image_layers=2, text_layers=1),
        vision_language(image_layers=1, layers=1, hidden=1024, heads=8, ffn=4096, seq_len=1024),
    ],
    ids=lambda graph: graph.name,
)
def test_a_group_divides_it(graph):
    shared = shard(graph, device_preset("a100-sxm4-80gb"), Link(bandwidth=3e11), 2, sequence=True)
    whole, member = sum(graph.param_bytes.values()), sum(shared.graph.param_bytes.values())
    assert whole / 2 <= member < 0.8 * whole
