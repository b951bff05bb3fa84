from __future__ import annotations

import dataclasses
import html.parser
import json
import re

import pytest

from drlpp.cluster import cluster_from_dict
from drlpp.errors import InputError, PlanError
from drlpp.graph.generate.synthetic import chain_graph
from drlpp.problem import PlanningProblem
from drlpp.report.comparison import compare_results
from drlpp.report.html import render_report, write_report
from drlpp.sim import simulate
from hand_plans import Bound, make_plan


class Page(html.parser.HTMLParser):
    """Checks that elements nest, and collects ids, attributes and text."""

    VOID = frozenset({"meta", "link", "br", "img", "hr", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.ids += [v for k, v in attrs if k == "id"]
        self.attributes += [(k, v or "") for k, v in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(k, v or "") for k, v in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def page(problem, simulation, results) -> str:
    curve = [{"iteration": i, "seconds": float(i), "mean_reward": -1.0 / (i + 1)} for i in range(20)]
    measured = dataclasses.replace(simulation.trace, source="measured")
    comparison = compare_results(problem, results, Bound(0.01))
    return render_report(simulation, comparison=comparison, curve=curve, measured=measured)


def test_every_section_is_there(page):
    ids = Page(page).ids
    for section in ("timeline", "memory", "stages", "comparison", "quality", "learning", "run"):
        assert section in ids
    assert len(ids) == len(set(ids))


def test_the_page_needs_no_network(page):
    for name, value in Page(page).attributes:
        if name in ("src", "href"):
            assert value.startswith(("#", "data:"))
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)|fetch\(|XMLHttpRequest|import\(", page)


def test_failed_planners_are_listed_with_their_reason_and_text_is_escaped(page):
    assert "no solution <in> time" in Page(page).text
    assert "no solution <in> time" not in page


def test_charts_are_json_that_cannot_close_the_script(problem, simulation, results):
    evil = dataclasses.replace(results[0], planner="</script><b>")
    page = render_report(simulation, comparison=compare_results(problem, [evil], Bound(0.01)))
    Page(page)
    content = re.search(r'id="charts">(.*?)</script>', page, re.S).group(1)
    assert json.loads(content)["history"]["series"][0]["name"] == "</script><b>"


def test_commands_repeat_the_plan(page):
    text = Page(page).text
    assert (
        "drlpp plan timm:two_branches --cluster mixed-a100-v100-t4 --planner drl --num-microbatches 8 --seed 3 "
        "--budget 30 -o plan.json" in text
    )
    assert "drlpp run plan.json" in text
    assert (
        "torchrun --nnodes 2 --node-rank 1 --nproc-per-node 3 --master-addr new --master-port 29500 "
        "-m drlpp run plan.json # on host old" in text
    )


def test_what_would_help_is_listed(problem):
    lopsided = make_plan(problem, [0, 0, 0, 0, 0, 0, 0, 1], [(0,), (1,)], "hand")
    assert "What would help One change" in Page(render_report(simulate(lopsided))).text


def test_plans_for_one_host_need_no_torchrun(problem):
    plan = make_plan(problem, [0, 0, 0, 0, 0, 1, 1, 1], [(0,), (1,)], "hand")
    assert "torchrun" not in Page(render_report(simulate(plan))).text


def test_sections_without_data_are_left_out(simulation):
    page = Page(render_report(simulation))
    assert {"comparison", "quality", "learning"}.isdisjoint(page.ids)
    assert "measured lane" not in page.text


def test_the_curve_of_the_comparison_is_drawn(problem, simulation, results):
    learned = dataclasses.replace(results[0], curve=({"iteration": 0.0, "mean_reward": -1.0},))
    page = Page(render_report(simulation, comparison=compare_results(problem, [learned], Bound(0.0))))
    assert "learning" in page.ids
    assert "dashed line is the lower bound" not in page.text


def test_a_plan_that_does_not_fit_says_so_first(problem):
    huge = dataclasses.replace(problem.graph, param_bytes=dict.fromkeys(problem.graph.param_bytes, 3000000000.0))
    plan = make_plan(PlanningProblem(huge, problem.cluster, problem.training), [0] * 8, [(7,)], "hand")
    assert "This plan does not fit: device #7 (t4) needs 63 GB of 16 GB" in Page(render_report(simulate(plan))).text


def test_write_report_writes_the_page(plan, tmp_path):
    path = tmp_path / "report.html"
    write_report(plan, path)
    assert path.read_text().startswith("<!doctype html>")
    assert list(tmp_path.iterdir()) == [path]


def test_write_report_refuses_illegal_plans(plan, tmp_path):
    broken = dataclasses.replace(plan, stages=plan.stages[:3])
    with pytest.raises(PlanError, match="in no stage"):
        write_report(broken, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_a_measured_trace_of_another_cluster_is_refused(plan, simulation, tmp_path):
    measured = dataclasses.replace(simulation.trace, num_devices=3)
    with pytest.raises(InputError, match="3 devices and the plan 8"):
        write_report(plan, tmp_path / "report.html", measured=measured)


def test_64_devices_and_128_microbatches_stay_below_2_mb(problem):
    host = {"name": "h", "count": 8, "devices": ["h100-sxm5-80gb"] * 8}
    host |= {"link": {"bandwidth": 4e11}, "network": {"bandwidth": 5e10}}
    cluster = cluster_from_dict({"schema_version": 1, "name": "big", "hosts": [host]})
    big = PlanningProblem.build(chain_graph(128, tensor_bytes=1e6, param_bytes=1e6), cluster, num_microbatches=128)
    plan = make_plan(big, [i // 2 for i in range(128)], [(i,) for i in range(64)], "hand")
    page = render_report(simulate(plan))
    assert len(page.encode()) < 2e6
    assert "up to --node-rank 7" in page


def test_devices_that_do_alike_are_folded_and_memory_is_taken_apart(page, problem):
    text = Page(page).text
    assert "Optimizer states" in text
    assert "Unfold all" in text
    assert "click on its name to unfold it" in text
    every = make_plan(problem, [0, 1, 1, 2, 2, 3, 4, 5], [(0,), (1,), (2,), (3,), (4, 5), (6, 7)], "t")
    assert "Unfold all" in render_report(simulate(every))
