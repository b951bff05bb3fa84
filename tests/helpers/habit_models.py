"""Small models with habits that change what a step trains: each is a class without arguments and one micro-batch."""

from __future__ import annotations

import functools
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, strength: float) -> torch.Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return -ctx.strength * gradient, None


class Quantise(torch.autograd.Function):
    """New style, two outputs of which one is not differentiable."""

    @staticmethod
    def forward(x: torch.Tensor, scale: torch.Tensor) -> Any:
        code = torch.round(x / scale)
        return code * scale, code

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, _: Any) -> Any:
        x, scale = ctx.saved_tensors
        return gradient * (x.abs() < 2), (gradient * torch.round(x / scale)).sum()


class InNumpy(torch.autograd.Function):
    """Computes outside of PyTorch."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return torch.from_numpy(np.sin(x.detach().numpy()))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return torch.from_numpy(gradient.numpy() * np.cos(x.numpy()))


class Doubled(torch.autograd.Function):
    """Changes its argument in place."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * 5


bound_early = Reverse.apply


class Net(nn.Module):
    """Linear, the habit (`middle`), linear, cross-entropy."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.prepare()

    def prepare(self) -> None:
        """Sets up the habit."""

    def middle(self, h: torch.Tensor) -> torch.Tensor:
        return self.inner(h)  # type: ignore[no-any-return]

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.last(torch.tanh(self.middle(torch.tanh(self.first(x))))), y)


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(6, 8), torch.randint(0, 4, (6,))


SUPPORTED: dict[str, type[Net]] = {}
REFUSED: dict[str, tuple[type[Net], str]] = {}


def supported(cls: type[Net]) -> type[Net]:
    SUPPORTED[cls.__name__] = cls
    return cls


def refused(message: str) -> Callable[[type[Net]], type[Net]]:
    def add(cls: type[Net]) -> type[Net]:
        REFUSED[cls.__name__] = cls, message
        return cls

    return add


# ---- custom Functions


@supported
class ReversedGradient(Net):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        return self.inner(Reverse.apply(h, 0.5)) + h  # type: ignore[no-any-return]


@supported
class ReversedByAnEarlyName(Net):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        return self.inner(bound_early(h, 0.5)) + h  # type: ignore[no-any-return]


@supported
class Quantised(Net):
    def prepare(self) -> None:
        self.scale = nn.Parameter(torch.tensor(0.3))

    def middle(self, h: torch.Tensor) -> torch.Tensor:
        value, code = Quantise.apply(self.inner(h), self.scale)
        return value + 0.1 * code.detach().abs()  # type: ignore[no-any-return]


@supported
class NumpyFunction(Net):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        return InNumpy.apply(self.inner(h))  # type: ignore[no-any-return]


class Mixed(torch.autograd.Function):
    """Takes and returns things that are no tensors."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, options: Any, *rest: torch.Tensor) -> Any:
        ctx.num = len(rest)
        return x * options["by"], None, "text", x + sum(rest)

    @staticmethod
    def backward(ctx: Any, first: torch.Tensor, *others: Any) -> Any:
        return first * 7 + others[-1], None, *(others[-1] for _ in range(ctx.num))


@supported
class MixedFunction(Net):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        y, none, text, z = Mixed.apply(self.inner(h), {"by": 2.0}, h, h)
        assert none is None
        assert text == "text"
        return y + z  # type: ignore[no-any-return]


@supported
class FunctionBesideNoGrad(Net):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            kept = Reverse.apply(h, 2.0)
        return kept + Reverse.apply(self.inner(h), 3.0)  # type: ignore[no-any-return]


@supported
class ParametersInContainers(Net):
    """Reads trained parameters from lists and dicts, as recurrent layers do."""

    def prepare(self) -> None:
        self.flat = [[self.inner.weight], (self.inner.bias,)]
        self.table = {"scale": self.inner.bias, "name": "bias"}

    def middle(self, h: torch.Tensor) -> torch.Tensor:
        return F.linear(h, self.flat[0][0], self.flat[1][0]) * self.table["scale"]  # type: ignore[operator]


@supported
class NoGradWithinAutocast(Net):
    """A teacher in the student's autocast region, and a trained part in the teacher's region."""

    def middle(self, h: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.no_grad():
                kept = self.inner(h)
                with torch.enable_grad():
                    trained = self.inner(h * 2)
            y = self.inner(h) - trained
        return kept.float() + y.float()


@supported
class InPlaceFunction(Net):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        h = self.inner(h)
        Doubled.apply(h)
        return h


class ReadsModule(torch.autograd.Function):
    """Reads a parameter behind the graph's back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: nn.Linear) -> torch.Tensor:
        ctx.layer = layer
        return F.linear(x, layer.weight)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient @ ctx.layer.weight, None


@refused("ReadsModule .*reads tensors of the module besides its arguments")
class FunctionOnAModule(Net):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        return self.inner(h) + ReadsModule.apply(h, self.inner)  # type: ignore[no-any-return]


# ---- checkpoints


@supported
class ReentrantCheckpoint(Net):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        return torch.tanh(checkpoint(self.inner, h, use_reentrant=True))


@supported
class Checkpoint(Net):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        return torch.tanh(checkpoint(self.inner, h, use_reentrant=False))


@supported
class CheckpointInCheckpoint(Net):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        def twice(x: torch.Tensor) -> torch.Tensor:
            return checkpoint(self.inner, x, use_reentrant=False) * 2  # type: ignore[no-any-return]

        return checkpoint(twice, h, use_reentrant=False)  # type: ignore[no-any-return]


@supported
class CheckpointWithDropout(Net):
    def prepare(self) -> None:
        self.drop = nn.Dropout(0.5)

    def middle(self, h: torch.Tensor) -> torch.Tensor:
        return self.drop(checkpoint(lambda x: self.drop(self.inner(x)), h, use_reentrant=False))  # type: ignore[no-any-return]


@supported
class CheckpointedNorm(Net):
    """The norm sees each batch twice."""

    reentrant = False

    def prepare(self) -> None:
        self.norm = nn.BatchNorm1d(8)

    def middle(self, h: torch.Tensor) -> torch.Tensor:
        return checkpoint(lambda x: self.norm(self.inner(x)), h, use_reentrant=self.reentrant)  # type: ignore[no-any-return]


@supported
class ReentrantCheckpointedNorm(CheckpointedNorm):
    reentrant = True


@supported
class ReentrantCheckpointOfTheInput(Net):
    """No argument has a gradient, so PyTorch gives the parameters none."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        h = checkpoint(self.first, x, use_reentrant=True) + self.inner(x)
        return F.cross_entropy(self.last(torch.tanh(h)), y)


# ---- hooks


@supported
class TensorHook(Net):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        h = self.inner(h)
        h.register_hook(lambda g: g * 0.1)
        return h


@supported
class LateTensorHook(Net):
    """The hook sees the gradients of what read the tensor before, too."""

    def middle(self, h: torch.Tensor) -> torch.Tensor:
        y = self.inner(h)
        h.register_hook(lambda g: g * 0.1)
        return y + h


@supported
class ForwardHook(Net):
    def prepare(self) -> None:
        self.inner.register_forward_hook(lambda module, args, output: output * 2)
        self.inner.register_forward_pre_hook(lambda module, args: (args[0] + 1,))


@supported
class ModuleBackwardHook(Net):
    def prepare(self) -> None:
        self.inner.register_full_backward_hook(lambda module, into, out: (into[0] * 0.1,))


@supported
class ModuleBackwardPreHook(Net):
    def prepare(self) -> None:
        self.inner.register_full_backward_pre_hook(lambda module, out: (out[0].clamp(-0.01, 0.01),))


@supported
class ParameterHook(Net):
    def prepare(self) -> None:
        mask = torch.rand(8, 8) > 0.5
        self.inner.weight.register_hook(lambda g: g * mask)


@supported
class ClippingParameterHook(Net):
    def prepare(self) -> None:
        for p in self.parameters():
            p.register_hook(lambda g: g.clamp(-0.01, 0.01))


@supported
class HookedAndTied(Net):
    def prepare(self) -> None:
        self.inner.weight = self.first.weight
        self.first.weight.register_hook(lambda g: g.clamp(-0.01, 0.01))


@refused("reads tensors of the module besides its arguments")
class DecayingParameterHook(Net):
    """A hook that reads a trained parameter: the copies of the stages would not be seen."""

    def prepare(self) -> None:
        self.inner.weight.register_hook(functools.partial(lambda p, g: g + 0.1 * p, self.inner.weight))


@refused("post-accumulate-grad hook")
class OptimizerInBackward(Net):
    def prepare(self) -> None:
        self.inner.weight.register_post_accumulate_grad_hook(lambda p: None)


@supported
class LoggingBackwardHook(Net):
    """Needs the values of gradients."""

    def prepare(self) -> None:
        self.log: list[float] = []
        self.inner.register_full_backward_hook(lambda module, into, out: self.log.append(float(out[0].norm())))


@refused("inner.bias")
class HookOnANode(Net):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        y = self.inner(h)
        if y.grad_fn is not None:
            y.grad_fn.register_hook(lambda into, out: tuple(g if g is None else g * 0.1 for g in into))
        return y  # type: ignore[no-any-return]


@supported
class DerivativeInside(Net):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        (slope,) = torch.autograd.grad(self.inner(h).sum(), h, create_graph=True)
        return slope + h


@refused("set on a parameter")
class HookSetInForward(Net):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        self.inner.weight.register_hook(lambda g: g * 0.5)
        return self.inner(h)  # type: ignore[no-any-return]


@refused(r"saved_tensors_hooks at habit_models.py:\d+, which the captured graph cannot have")
class HookOnSavedTensors(Net):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t * 0.5, lambda t: t):
            return self.inner(h)  # type: ignore[no-any-return]


@refused("register_multi_grad_hook at")
class HookOnManyGradients(Net):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        y = self.inner(h)
        torch.autograd.graph.register_multi_grad_hook((h, y), lambda gradients: None)
        return y  # type: ignore[no-any-return]


@supported
class SavedOnTheCpu(Net):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        with torch.autograd.graph.save_on_cpu():
            return self.inner(h)  # type: ignore[no-any-return]


# ---- modes


@supported
class InferenceMode(Net):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            teacher = self.inner(h)
        return h + teacher.clone()


@supported
class EvalPart(Net):
    def prepare(self) -> None:
        self.norm, self.drop = nn.BatchNorm1d(8), nn.Dropout(0.5)
        self.norm.running_mean.copy_(torch.randn(8))  # type: ignore[union-attr]
        self.norm.eval()
        self.drop.eval()

    def middle(self, h: torch.Tensor) -> torch.Tensor:
        return self.drop(self.norm(self.inner(h)))  # type: ignore[no-any-return]


@supported
class StaysInEval(EvalPart):
    """An overridden `train` that keeps a part in eval mode."""

    def prepare(self) -> None:
        super().prepare()
        self.norm.train()
        self.train()

    def train(self, mode: bool = True) -> StaysInEval:
        super().train(mode)
        self.norm.eval()
        self.drop.eval()
        return self


@supported
class EvalRoot(EvalPart):
    """Left in eval mode as a whole, as `from_pretrained` leaves models."""

    def prepare(self) -> None:
        super().prepare()
        self.eval()


@refused("leaves the recording of gradients off")
class LeakedNoGrad(Net):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        loss = super().forward(x, y)
        torch.set_grad_enabled(False)
        return loss


@supported
class FrozenForAWhile(Net):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        self.inner.requires_grad_(False)
        y = self.inner(h)
        self.inner.requires_grad_(True)
        return y + 0.1 * self.inner(h)  # type: ignore[no-any-return]


@refused("switches requires_grad of parameter 'inner.weight'")
class Unfreezing(Net):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        self.inner.weight.requires_grad = False
        return self.inner(h)  # type: ignore[no-any-return]


# ---- state


@supported
class AssignedBuffer(Net):
    def prepare(self) -> None:
        self.register_buffer("average", torch.zeros(8))

    def middle(self, h: torch.Tensor) -> torch.Tensor:
        before = self.average
        self.average = 0.9 * before + 0.1 * h.detach().mean(0)
        return self.inner(h * before + self.average)  # type: ignore[no-any-return]


@supported
class AuxiliaryLoss(Net):
    """Leaves a tensor in an attribute and reads it in the same pass."""

    def middle(self, h: torch.Tensor) -> torch.Tensor:
        self.auxiliary = h.square().mean()
        return self.inner(h)  # type: ignore[no-any-return]

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return super().forward(x, y) + self.auxiliary


@supported
class LateBuffer(Net):
    """A mask that the first pass makes."""

    def prepare(self) -> None:
        self.register_buffer("mask", None, persistent=False)

    def middle(self, h: torch.Tensor) -> torch.Tensor:
        if self.mask is None:
            self.register_buffer("mask", torch.arange(8) < 5, persistent=False)
        return self.inner(h * self.mask)  # type: ignore[no-any-return]


@refused("makes buffer 'average' and changes it in the next pass")
class LateAverage(Net):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        if "average" not in self._buffers:
            self.register_buffer("average", torch.zeros(8))
        self.average.mul_(0.9).add_(h.detach().mean(0))  # type: ignore[union-attr, operator]
        return self.inner(h)  # type: ignore[no-any-return]


@refused("'hidden' may keep a tensor for the next pass, and the loss in pass 2")
class CarriedState(Net):
    """A recurrent state that goes on to the next batch."""

    def prepare(self) -> None:
        self.hidden: torch.Tensor | None = None

    def middle(self, h: torch.Tensor) -> torch.Tensor:
        y = self.inner(h) if self.hidden is None else self.inner(h + self.hidden)
        self.hidden = y.detach()
        return y  # type: ignore[no-any-return]


@supported
class ChecksValues(Net):
    """Nothing of it keeps the model whole."""

    def middle(self, h: torch.Tensor) -> torch.Tensor:
        assert torch.isfinite(h).all(), "not finite"
        if torch.isnan(h).any() or not (h < 100).all().item():
            raise ValueError("too large")
        return self.inner(h)  # type: ignore[no-any-return]


@supported
class SynchronisedNorm(Net):
    def prepare(self) -> None:
        self.norm = nn.SyncBatchNorm(8)

    def middle(self, h: torch.Tensor) -> torch.Tensor:
        return self.norm(self.inner(h))  # type: ignore[no-any-return]


@supported
class HarmlessCounter(Net):
    """Counts for a log; nothing depends on it."""

    def prepare(self) -> None:
        self.calls = 0

    def middle(self, h: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.inner(h)  # type: ignore[no-any-return]


@refused("'calls' changes in the forward pass")
class Annealed(HarmlessCounter):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        return super().middle(h) * (1 + self.calls)


@refused("'calls' counts the passes")
class WarmedUp(HarmlessCounter):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        h = super().middle(h)
        return h if self.calls < 500 else h.detach()


@supported
class MomentumEncoder(Net):
    """A frozen copy that follows the trained layer, by assignment to `.data` and in place."""

    def prepare(self) -> None:
        self.key = nn.Linear(8, 8).requires_grad_(False)

    def middle(self, h: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.key.weight.data = 0.9 * self.key.weight.data + 0.1 * self.inner.weight.data
            self.key.bias.mul_(0.9).add_(self.inner.bias, alpha=0.1)
            target = self.key(h)
        return self.inner(h) * target  # type: ignore[no-any-return]


@supported
class FollowingEncoder(Net):
    """Gradients go through a frozen copy that forward changes in place, and through a buffer of that kind."""

    def prepare(self) -> None:
        self.key = nn.Linear(8, 8).requires_grad_(False)
        self.register_buffer("size", torch.ones(8))

    def middle(self, h: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.key.weight.mul_(0.9).add_(self.inner.weight, alpha=0.1)
            self.size.mul_(0.5).add_(h.detach().abs().mean(0))
        return self.inner(h) * self.key(h) / self.size  # type: ignore[no-any-return]


@refused(r"torch.manual_seed at habit_models.py:\d+, but each op draws numbers of its own")
class SeedsInForward(Net):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        return self.inner(h) + torch.randn(8)  # type: ignore[no-any-return]


@refused("torch.fork_rng at")
class ForksTheGenerator(Net):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        with torch.random.fork_rng(devices=[]):
            return self.inner(h) + torch.randn(8)  # type: ignore[no-any-return]


@refused("Python's random")
class PythonRandom(Net):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        return h if random.random() < 0.01 else self.inner(h)


@refused("numpy.random")
class NumpyRandom(Net):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        return self.inner(h) * float(np.random.rand())  # type: ignore[no-any-return]


@refused("'generator' changes")
class OwnGenerator(Net):
    def prepare(self) -> None:
        self.generator = random.Random(3)

    def middle(self, h: torch.Tensor) -> torch.Tensor:
        return self.inner(h) + (1.0 if self.generator.random() > 2 else 0.0)  # type: ignore[no-any-return]


@refused("changes parameter 'inner.weight', which is trained, in place")
class ClampedWeight(Net):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.inner.weight.clamp_(-0.1, 0.1)
        return self.inner(h)  # type: ignore[no-any-return]


@refused("the same memory")
class TiedByStorage(Net):
    def prepare(self) -> None:
        self.inner.weight.data = self.first.weight.data


@supported
class FrozenPart(Net):
    def prepare(self) -> None:
        self.inner.requires_grad_(False)


@supported
class Data(Net):
    def middle(self, h: torch.Tensor) -> torch.Tensor:
        return self.inner(h.data) + h  # type: ignore[no-any-return]


@refused("'inner' was compiled by torch.jit, so it cannot be looked into")
class Scripted(Net):
    def prepare(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.inner = torch.jit.script(self.inner)


@refused("'inner.weight' has no shape yet .* call the module once on a batch before")
class LazyPart(Net):
    def prepare(self) -> None:
        self.inner = nn.LazyLinear(8)


@refused("'code' begins with a name that torch.fx keeps for itself")
class CodeBook(Net):
    def prepare(self) -> None:
        self.register_buffer("code", torch.ones(8))

    def middle(self, h: torch.Tensor) -> torch.Tensor:
        return self.inner(h) * self.code  # type: ignore[no-any-return, operator]


@refused(r"the memory of parameter 'inner.weight' through another tensor, .* by its name .* inner.weight.detach\(\)")
class AliasOfAParameter(Net):
    def prepare(self) -> None:
        self.kept = [self.inner.weight.detach()]

    def middle(self, h: torch.Tensor) -> torch.Tensor:
        return self.inner(h) + F.linear(h, self.kept[0])  # type: ignore[no-any-return]


@supported
class OutputsThatRequireGradients(Net):
    """As transformers does it for checkpoints: the embedding's output is made to require a gradient."""

    def prepare(self) -> None:
        self.first.register_forward_hook(lambda module, args, output: output.requires_grad_(True))


@supported
class PlainAttribute(Net):
    """A moving average in a tensor that is no buffer."""

    def prepare(self) -> None:
        self.average = torch.zeros(8)

    def middle(self, h: torch.Tensor) -> torch.Tensor:
        self.average.mul_(0.9).add_(0.1 * h.detach().mean(0))
        return self.inner(h - self.average)  # type: ignore[no-any-return]


@supported
class ZerosOfThatShape(Net):
    """Adds to zeros of the shape of an activation, through which no gradient goes."""

    def middle(self, h: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(h) + self.inner(h)  # type: ignore[no-any-return]


@supported
class NormalisedInPlace(Net):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x.sub_(0.5).div_(2.0)
        return super().forward(x, y)


@supported
class AlignedLoss(Net):
    """CTC loss in the model's own forward."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        scores = self.last(torch.tanh(self.inner(torch.tanh(self.first(x))))).log_softmax(-1)[:, None]
        return F.ctc_loss(scores, 1 + y[None, :2] % 3, torch.tensor([6]), torch.tensor([2]), zero_infinity=True)


# ---- modules that are kept whole


class Part(nn.Module):
    """A linear layer with a construct that cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.prepare()

    def prepare(self) -> None:
        """Sets up the construct."""


def whole(cls: type[Part]) -> type[Part]:
    """Makes a supported model with this part in the middle."""
    name = f"With{cls.__name__}"

    def prepare(self: Any) -> None:
        self.part = cls()

    def middle(self: Any, h: torch.Tensor) -> torch.Tensor:
        return self.part(h)  # type: ignore[no-any-return]

    supported(type(name, (Net,), {"prepare": prepare, "middle": middle}))
    return cls


@whole
class Branch(Part):
    def prepare(self) -> None:
        self.norm = nn.BatchNorm1d(8)
        self.register_buffer("average", torch.zeros(8))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        if h.mean() > 100:
            return h
        y = self.norm(self.layer(h))
        self.average = 0.9 * self.average + 0.1 * y.detach().mean(0)
        return y - self.average  # type: ignore[no-any-return]


@whole
class Mapped(Part):
    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return torch.vmap(lambda row: self.layer(row).tanh() * row)(h)  # type: ignore[no-any-return]


@whole
class FunctionalGradient(Part):
    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.layer(h) + torch.func.grad(lambda x: self.layer(x).square().sum())(h)  # type: ignore[no-any-return]


@whole
class Derivative(Part):
    def forward(self, h: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(self.layer(h).square().sum(), h, create_graph=True)
        return slope + h


@whole
class Generated(Part):
    def forward(self, h: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(h.shape, generator=torch.Generator().manual_seed(3))
        return self.layer(h) + 0.1 * noise  # type: ignore[no-any-return]


@whole
class Experts(Part):
    def prepare(self) -> None:
        self.gate, self.other = nn.Linear(8, 2), nn.Linear(8, 8)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        share, chosen = self.gate(h).softmax(-1).max(-1)
        out = torch.zeros_like(h)
        for number, expert in enumerate((self.layer, self.other)):
            rows = (chosen == number).nonzero().flatten()
            if len(rows):
                out = out.index_add(0, rows, expert(h[rows]) * share[rows, None])
        return out


@whole
class Packed(Part):
    def prepare(self) -> None:
        self.layer = nn.GRU(2, 8, batch_first=True)  # type: ignore[assignment]

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(h.view(6, 4, 2), [4, 4, 3, 2, 2, 1], batch_first=True)
        return self.layer(packed)[1][0]  # type: ignore[no-any-return]


@whole
class HookedNorm(Part):
    def prepare(self) -> None:
        self.norm = nn.BatchNorm1d(8)
        self.register_full_backward_hook(lambda module, into, out: (into[0] * 0.5,))
        self.register_forward_hook(lambda module, args, output: output * 2)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.norm(self.layer(h))  # type: ignore[no-any-return]


@whole
class CumulativeNorm(Part):
    def prepare(self) -> None:
        self.norm = nn.BatchNorm1d(8, momentum=None)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.norm(self.layer(h))  # type: ignore[no-any-return]


@whole
class UncountedStatistics(Part):
    """PyTorch does not count an update of statistics as a change in place, nor a write to ``.data``."""

    def prepare(self) -> None:
        for name in ("mean", "variance", "average"):
            self.register_buffer(name, torch.ones(8))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        if h.mean() > 100:
            return h
        self.average.data.mul_(0.5).add_(h.detach().mean(0))
        return F.batch_norm(self.layer(h), self.mean, self.variance, training=True) + self.average


@whole
class Observed(Part):
    """Quantisation in training: observers that are switched by the values of buffers."""

    def prepare(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch.ao.quantization import FakeQuantize

            self.quantise = FakeQuantize()

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.quantise(self.layer(h))  # type: ignore[no-any-return]


def made(name: str) -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    """A model of either kind, and its micro-batch, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        cls = SUPPORTED[name] if name in SUPPORTED else REFUSED[name][0]
        model = cls()
        return model, inputs()
