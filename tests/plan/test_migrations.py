"""Older plan files are read as if they had been written today."""

import pytest

from drlpp.errors import PlanError
from drlpp.plan.migrations import SCHEMA_VERSION, migrated

OLD = {
    "schema_version": 1,
    "format": "drlpp-plan",
    "stages": [{"index": 0, "ops": ["a"], "devices": [2, 0], "recompute": True}],
}


def test_devices_become_groups_of_one():
    new = migrated(OLD, "p.json")
    assert new["schema_version"] == SCHEMA_VERSION
    assert new["stages"] == [{"index": 0, "ops": ["a"], "replicas": [[2], [0]], "recompute": True}]


def test_the_newest_version_stays_as_it_is():
    new = migrated(OLD, "p.json")
    assert migrated(new, "p.json") == new


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "p.json: found a list: a plan is a JSON object"),
        (OLD | {"schema_version": 9}, "schema_version 9: this release reads 'drlpp-plan' files of the versions 1 to"),
        (OLD | {"schema_version": True}, "schema_version True"),
        (OLD | {"format": "drlpp-graph"}, "format is 'drlpp-graph'"),
        (OLD | {"stages": [{"index": 0}]}, "p.json: stages.0: a stage of version 1 has a list 'devices'"),
        (OLD | {"stages": [{"devices": [0], "replicas": [[0]]}]}, "stages.0: a stage of version 1"),
    ],
)
def test_others_are_refused(data, message):
    with pytest.raises(PlanError) as caught:
        migrated(data, "p.json")
    assert message in str(caught.value)
