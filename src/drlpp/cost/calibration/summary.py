"""What a calibration found, as plain numbers for tables and JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from drlpp.cost.calibration.calibrated import calibrated_costs
from drlpp.cost.calibration.fit import Calibration, Factor
from drlpp.cost.op_times import op_times


def summary(calibration: Calibration) -> dict[str, Any]:
    """The JSON-ready form: factors of seconds, each with its relative standard deviation.

    Returns:
        ``devices`` (over all ops of the model), ``op_classes`` by type of device, ``links``, ``action_overhead_s`` and
        ``counts``.
    """
    cluster, where = calibration.cluster, calibration.unknowns
    new, _ = calibrated_costs(calibration)
    links = [
        {
            "scope": scope,
            "host": cluster.hosts[host].name,
            "seconds_per_byte": dataclasses.asdict(calibration.wire_factor(scope, host)),
            "latency": dataclasses.asdict(calibration.latency_factor(scope, host)),
        }
        for scope, host in where.link_kind
    ]
    return {
        "devices": [
            {
                "device": d.id,
                "type": d.type.name,
                "calibrated_type": new.devices[d.id].type.name,
                **dataclasses.asdict(device_factor(calibration, d.id)),
            }
            for d in cluster.devices
        ],
        "op_classes": [
            {
                "type": kind,
                "op_class": op_class,
                "forward": dataclasses.asdict(calibration.op_factor(mine, c)),
                "backward": dataclasses.asdict(calibration.op_factor(mine, c, backward=True)),
            }
            for t, kind in enumerate(where.types)
            if (mine := np.flatnonzero(cluster.type_index == t).tolist())
            for c, op_class in enumerate(where.classes)
        ],
        "links": links,
        "action_overhead_s": dataclasses.asdict(calibration.action_s),
        "counts": calibration.counts,
    }


def device_factor(calibration: Calibration, device: int) -> Factor:
    """Of the whole model on a device: factors of its classes, weighted by what the database says they take."""
    where = calibration.unknowns
    table, kind = op_times(calibration.graph, calibration.cluster), int(calibration.cluster.type_index[device])
    forward = np.bincount(where.class_of_op, weights=table.forward_s[kind], minlength=len(where.classes))
    backward = table.input_grad_s[kind] + table.weight_grad_s[kind]
    back = np.bincount(where.class_of_op, weights=backward, minlength=len(where.classes))
    before, after, direction = 0.0, 0.0, np.zeros(len(calibration.posterior.mean))
    for is_backward, row in ((False, forward), (True, back)):
        for c, seconds in enumerate(row.tolist()):
            slower = seconds * calibration.op_factor([device], c, backward=is_backward).value
            before, after = before + seconds, after + slower
            direction[where.positions_of_op_factor(kind, device, c, backward=is_backward)] += slower
    if not after:
        return calibration.op_factor([device], 0)
    return Factor(after / before, calibration.posterior.deviation(direction / after))
