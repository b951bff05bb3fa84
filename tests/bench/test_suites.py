"""The named suites, and those of files."""

from urllib.parse import parse_qsl

import pytest

from drlpp.agent.training.corpus import CLUSTER_SPLITS, GRAPH_SPLITS, TRAINING_MODELS
from drlpp.bench.suites import find_suite, suites
from drlpp.cluster import load_cluster
from drlpp.errors import InputError
from drlpp.graph.generate.by_name import generated_graph

NAMED = [
    "paper",
    "heterogeneous",
    "large",
    "hybrid-large",
    "branchy",
    "llm",
    "generalisation",
    "planning-time",
    "smoke",
]


def test_what_there_is():
    assert list(suites()) == NAMED
    for suite in suites().values():
        assert suite.summary
        assert find_suite(suite.name) == suite


@pytest.mark.parametrize("name", NAMED)
def test_clusters_and_generated_models_exist(name):
    for case in suites()[name].cases:
        assert load_cluster(case.cluster).num_devices > 1
        if case.model.startswith("generated:"):
            assert generated_graph(case.model).num_ops > 10
        else:
            scheme, _, rest = case.model.partition(":")
            assert scheme in ("timm", "transformers")
            parse_qsl(rest.partition("?")[2], strict_parsing=bool(rest.partition("?")[2]))


def test_large_models_on_many_devices():
    for case in suites()["large"].cases:
        assert 64 <= load_cluster(case.cluster).num_devices <= 1024


def test_hybrid_large_is_the_whole_space_on_unequal_devices():
    cases = suites()["hybrid-large"].cases
    assert len(cases) >= 14
    for case in cases:
        cluster = load_cluster(case.cluster)
        assert 64 <= cluster.num_devices <= 1024
        assert 2 <= len(cluster.device_types) <= 4
    problem = cases[0].problem()
    assert problem.space.parallelism == {"pp", "dp", "tp", "sp", "zero1"}
    assert problem.training.zero1
    assert (problem.global_batch, problem.training.precision) == (512, "bf16")
    assert len(problem.space.micro_batch_sizes) > 4


def test_generalisation_is_unseen_by_the_policys_training():
    seen_kinds = {k for split in ("train", "validation") for k in CLUSTER_SPLITS[split]}
    seen_families = {f for split in ("train", "validation") for f in GRAPH_SPLITS[split]}
    trained = {model.partition("?")[0] for model in TRAINING_MODELS}
    for case in suites()["generalisation"].cases:
        kind = case.cluster.removeprefix("generated:").partition("?")[0]
        assert kind in CLUSTER_SPLITS["test"]
        assert kind not in seen_kinds
        assert case.model.partition("?")[0] not in trained
        if case.model.startswith("generated:"):
            assert case.model.removeprefix("generated:").partition("?")[0] not in seen_families


def test_a_suite_of_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ncases:\n  - {name: a, model: 'generated:dag?ops=20', cluster: local-2}\n")
    suite = find_suite(str(path))
    assert suite.name == "mine"
    assert suite.cases[0].problem().graph.num_ops == 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "line 1: not YAML"),
        ("name: mine", "key 'cases' is missing"),
        ("name: mine\ncases: [{name: a, model: m, cluster: c, budget: 3}]", "unknown key 'cases.0.budget'"),
        ("name: mine\ncases: [{name: a, model: m, cluster: c, num_microbatches: 0}]", "num_microbatches"),
        ("name: mine\ncases: []", "has no cases"),
        ("- 1", "the file"),
    ],
)
def test_bad_files_are_refused(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        find_suite(str(path))


def test_unknown_suites_are_refused():
    with pytest.raises(InputError, match="did you mean 'paper'"):
        find_suite("papers")


def test_what_plans_may_use_is_set_for_all_cases():
    smoke = suites()["smoke"]
    assert smoke.with_parallelism(None) is smoke
    assert {c.parallelism for c in smoke.with_parallelism("pp,dp,zero1").cases} == {"pp,dp,zero1"}
    assert smoke.with_parallelism("pp,dp,zero1").cases[0].problem().training.zero1
    with pytest.raises(InputError, match="'tp' is given without 'pp'"):
        smoke.with_parallelism("tp")
