"""Mixed precision: a captured model as it is under autocast.

Autocast is a property of every op, as the gradient mode is: ops run in a region of their own, whatever stage they are
in, and weights are cast anew for each (no cache), so the result does not depend on the partition. What an op gives in
that mode, and so the element types of messages, is found by running the graph on tensors without values.

Left out: element types that the model's code chose when it was captured (``x.to(y.dtype)``) stay as they were.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import fx

from drlpp.capture import CapturedModel
from drlpp.capture.calls import on_device
from drlpp.errors import InputError
from drlpp.torch_private import FakeTensor, FakeTensorMode


def under_autocast(captured: CapturedModel, dtype: torch.dtype, device: torch.device) -> CapturedModel:
    """The same model, parameters and ops; every op that has no autocast region of its own runs in one.

    Args:
        captured: the model.
        dtype: ``torch.bfloat16``, for example.
        device: where it will run.

    Raises:
        InputError: an op cannot run so.
    """
    names = [n.name for n in captured.module.graph.nodes if n.op == "call_function"]
    region = (device.type, dtype, True, False)
    regions = {n: captured.autocast.get(n, region) for n in names if n not in captured.no_autocast}
    graph = fx.Graph()
    graph.output(graph.graph_copy(captured.module.graph, {}))
    module = fx.GraphModule(captured.module, graph, class_name="CapturedModule")
    fakes = [p for p in module.parameters() if isinstance(p, FakeTensor)]
    mode = fakes[0].fake_mode if fakes else FakeTensorMode(allow_non_fake_inputs=True)
    with mode, torch.no_grad():
        inputs = (mode.from_tensor(t).to(device) for t in captured.example_inputs.values())
        _Types(module, regions, mode, device).run(*inputs)
    return dataclasses.replace(captured, module=module, autocast=regions)


class _Types(fx.Interpreter):
    """Notes in the graph what every node gives."""

    def __init__(
        self,
        module: fx.GraphModule,
        regions: Mapping[str, tuple[Any, ...]],
        mode: FakeTensorMode,
        device: torch.device,
    ) -> None:
        super().__init__(module)
        self.extra_traceback = False
        self._regions = regions
        self._mode = mode
        self._device = device

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        tensor = super().get_attr(target, args, kwargs)
        return (tensor if isinstance(tensor, FakeTensor) else self._mode.from_tensor(tensor)).to(self._device)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        return super().call_function(target, on_device(args, self._device), on_device(kwargs, self._device))

    def run_node(self, n: fx.Node) -> Any:
        region = self._regions.get(n.name)
        context: AbstractContextManager[Any] = nullcontext()
        if region is not None:
            kind, dtype, enabled, cache = region
            context = torch.autocast(kind, dtype=dtype, enabled=enabled, cache_enabled=cache)
        try:
            with context:
                value = super().run_node(n)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"op {n.name!r} cannot run under {region and region[1]} autocast: {reason}") from error
        if n.op == "call_function":
            n.meta["val"] = value
        return value
