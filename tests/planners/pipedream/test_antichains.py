from drlpp.planners.pipedream.antichains import bits, cut_states, path_states, prefix_states

DIAMOND = ((), (0,), (0,), (1, 2))  # 0 -> 1, 2 -> 3


def test_bits_are_the_positions():
    assert bits(0b1011) == [0, 1, 3]


def test_states_of_a_diamond_are_all_its_downsets():
    states = cut_states(DIAMOND, 100)
    assert set(states.masks) == {0b0000, 0b0001, 0b0011, 0b0101, 0b0111, 0b1111}
    contained = states.contained()
    first, second = states.masks.index(0b0011), states.masks.index(0b0101)
    assert not contained[first, second]
    assert not contained[second, first]


def test_boundary_counts_ancestors_that_are_used_elsewhere():
    states = cut_states(DIAMOND, 100)
    assert states.boundary[states.masks.index(0b0011)] == (0, 1)  # op 0 is still needed by op 2
    # all ops up to 2: op 0 has an edge to an op that is no ancestor of the other branch, so it is counted although
    # nothing needs it any more
    assert states.boundary[states.masks.index(0b0111)] == (0, 1, 2)
    assert states.boundary[states.masks.index(0b1111)] == (3,)


def test_too_many_states_give_none():
    wide = ((), *(((0,),) * 12), tuple(range(1, 13)))
    assert cut_states(wide, 1000) is None
    assert cut_states(wide, 5000).num_states == 2**12 + 2


def test_a_second_source_is_taken_along_when_it_is_needed():
    states = cut_states(((), (), (0, 1)), 10)
    assert states.masks == (0, 0b001, 0b111)


def test_prefixes_are_evenly_spaced_and_end_with_everything():
    chain = ((), (0,), (1,), (2,), (3,), (4,))
    states = prefix_states(chain, 3)
    assert states.num_states == 4
    assert states.masks[-1] == 0b111111
    assert states.boundary[1:] == ((0,), (3,), (5,)) or len(states.boundary[1]) == 1


def test_the_path_has_no_cut_inside_branches():
    graph = ((), (0,), (1,), (1,), (2, 3), (4,))  # chain 0, 1, branches 2 and 3, chain 4, 5
    assert path_states(graph).masks == (0, 0b1, 0b11, 0b11111, 0b111111)


def test_a_skip_over_a_cut_removes_it_from_the_path():
    assert path_states(((), (0,), (0, 1), (2,))).masks == (0, 0b1, 0b111, 0b1111)
