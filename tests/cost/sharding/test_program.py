"""The integer program against enumeration."""

import itertools
import math
import random

import pytest

from drlpp.cluster import Link
from drlpp.cost.sharding.members import PARTIAL, move_s
from drlpp.cost.sharding.program import ParamUse, Program, SavedUse, TensorUse, moves, solve

CUT, OTHER = (1, ()), (2, ())
LINK = Link(bandwidth=100.0, latency_s=0.1)


def random_program(rng: random.Random) -> Program:
    """Up to six classes of up to four options."""
    options = [rng.randint(1, 4) for _ in range(rng.randint(2, 6))]

    def forms(k: int, choices: list) -> tuple:
        return (choices[0], *(rng.choice(choices) for _ in range(options[k] - 1)))

    tensors = {}
    for _ in range(rng.randint(1, 7)):
        maker = rng.randrange(len(options) - 1)
        readers = rng.sample(range(maker + 1, len(options)), rng.randint(1, len(options) - maker - 1))
        wants = tuple((k, forms(k, [None, CUT, OTHER])) for k in sorted(readers))
        use = TensorUse(
            rng.uniform(1, 500), rng.random() < 0.7, maker, forms(maker, [None, CUT, OTHER, PARTIAL]), wants
        )
        tensors[use] = rng.randint(1, 3)
    some = [rng.sample(range(len(options)), rng.randint(1, 2)) for _ in range(4)]
    params = {
        ParamUse(rng.uniform(1, 500), tuple((k, forms(k, [None, CUT, PARTIAL])) for k in sorted(ks))): rng.randint(1, 2)
        for ks in some
    }
    saved = {
        SavedUse(rng.uniform(1, 500), tuple((k, forms(k, [False, True])) for k in sorted(ks))): 1 for ks in some[::-1]
    }
    return Program(
        seconds=[[rng.uniform(1, 20) for _ in range(n)] for n in options],
        tensors=tensors,
        params=params,
        saved=saved,
        move_s=lambda source, target, size: move_s(source, target, size, LINK, 4),
        param_sum_s=lambda size: size / 200,
        param_byte_s=rng.choice([0.0, 0.01]),
        saved_byte_s=rng.choice([0.0, 0.005]),
        degree=4,
    )


@pytest.mark.parametrize("seed", range(40))
def test_the_program_finds_the_best_of_all_choices(seed):
    program = random_program(random.Random(seed))
    best = min(program.objective(c) for c in itertools.product(*(range(len(table)) for table in program.seconds)))
    found = solve(program)
    assert found is not None
    assert program.objective(found) == pytest.approx(best, rel=1e-5)


def test_readers_of_one_placement_share_its_moves():
    use = TensorUse(100.0, True, 0, (None, PARTIAL), ((1, (None, None)), (2, (None, None)), (3, (None, CUT))))
    assert moves(use, [1, 1, 1, 1]) == [
        (True, (PARTIAL, None), 1),
        (False, (PARTIAL, None), 1),
        (True, (PARTIAL, CUT), 3),
        (False, (CUT, None), 3),
    ]


def test_readers_of_a_parameter_must_agree():
    param = ParamUse(1.0, ((0, (None, CUT)), (1, (None, PARTIAL))))
    program = Program([[1.0, 0.1], [1.0, 0.1]], {}, {param: 1}, {}, lambda *_: 0.0, lambda _: 0.0, 0.0, 0.0, 2)
    assert program.objective([1, 1]) == math.inf
    assert solve(program) == [0, 0]
