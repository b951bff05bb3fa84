"""A part of a model gets the values that it has in the whole, in the memory of the part."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from drlpp.capture import hollow_parameters, initial_values, load_model
from drlpp.capture.sources.fake_parameters import is_hollow
from drlpp.capture.sources.initial_values import seeded_construction
from drlpp.errors import InputError


class Odd(nn.Module):
    """Initialised in ways that no convention covers."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(3, 4))
        self.attention = nn.MultiheadAttention(8, 2)
        self.first = nn.Linear(8, 8)
        self.tied = self.first
        nn.init.orthogonal_(self.first.weight)
        nn.init.trunc_normal_(self.attention.out_proj.weight, std=0.02)


class Copied(nn.Module):
    """The second layer begins as the first."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.load_state_dict(self.a.state_dict())


class Stack(nn.Module):
    """Layers that are copies of one, and another that is changed after it was copied."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.Linear(4, 4)
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(2))
        self.last = copy.deepcopy(layer)
        nn.init.normal_(self.last.weight)


class Orthogonal(nn.Module):
    """Its constructor decides by the values of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.utils.parametrizations.orthogonal(nn.Linear(4, 4))


def whole(make: type[nn.Module], seed: int) -> dict[str, torch.Tensor]:
    with seeded_construction(seed):
        return dict(make().named_parameters(remove_duplicate=False))


@pytest.mark.parametrize("make", [Odd, Copied, Stack, Orthogonal])
def test_each_parameter_alone_is_as_in_the_whole(make: type[nn.Module]) -> None:
    for name, value in whole(make, 5).items():
        (found,) = initial_values(make, [name], seed=5).values()
        assert torch.equal(found, value), name
        assert not is_hollow(found)


def test_copied_values_are_equal() -> None:
    values = whole(Copied, 0)
    assert torch.equal(values["a.weight"], values["b.weight"])


def test_the_seed_matters_and_the_random_state_is_left_alone() -> None:
    torch.manual_seed(1)
    expected = torch.randn(1)
    torch.manual_seed(1)
    a, b = (initial_values(Odd, ["token"], seed=s)["token"] for s in (0, 1))
    assert not torch.equal(a, b)
    assert torch.equal(torch.randn(1), expected)


def test_kept_parameters_are_real_and_the_others_are_not() -> None:
    with hollow_parameters() as hollow:
        numbers = {n: hollow.number(p) for n, p in Odd().named_parameters()}
    assert sorted(numbers.values()) == list(range(len(numbers)))
    with hollow_parameters(keep={numbers["first.weight"]}) as part:
        made = Odd()
    assert [n for n, p in made.named_parameters() if not is_hollow(p)] == ["first.weight"]
    assert made.tied.weight is made.first.weight
    assert not part.mixed


def test_a_model_has_the_values_that_its_parts_get() -> None:
    source = load_model("timm:vit_tiny_patch16_224?depth=1&batch_size=1")
    built = dict(source.build(device="cpu", seed=2).module.named_parameters())
    names = ["pos_embed", "blocks.0.attn.qkv.weight", "head.weight"]
    found = initial_values(lambda: source.make().module, names, seed=2)
    assert all(torch.equal(found[n], built[n]) for n in names)


def test_converted_models_get_their_values_too() -> None:
    def make() -> nn.Module:
        return Odd().to(torch.float64)

    with seeded_construction(3):
        expected = make().token.detach()
    found = initial_values(make, ["token"], seed=3)["token"]
    assert found.dtype == torch.float64
    assert torch.equal(found, expected)


def test_unknown_parameter() -> None:
    with pytest.raises(InputError, match=r"has no parameter 'x': make the one that was captured"):
        initial_values(Odd, ["x"])


class WithTable(nn.Module):
    """A buffer is drawn after parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.register_buffer("table", torch.randn(3))
        self.second = nn.Linear(4, 4)
        self.register_buffer("late", torch.rand(3))


def test_buffers_are_drawn_alike_whether_or_not_parameters_have_values() -> None:
    with seeded_construction(5):
        real = WithTable()
    with seeded_construction(5), hollow_parameters():
        hollow = WithTable()
    assert is_hollow(hollow.first.weight)
    assert torch.equal(hollow.table, real.table)
    assert torch.equal(hollow.late, real.late)
