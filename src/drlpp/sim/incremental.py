"""The steady-state objective, incrementally: what moving one op to another stage does to the most loaded device.

The numbers are those of `cost.device_loads`. A move changes the compute load of two stages, the values that the
op produces and consumes, and the gradients to be reduced; everything else stays. The part of a transfer that goes with
its bytes adds up value by value; its latency is paid once per message (a bundle of values for the same stages), so
messages are counted in a hash table.

Left out: memory. The placement and the recomputation flags are fixed; a stage may become empty.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drlpp.cost.device_loads import LONGEST_PERIOD
from drlpp.cost.placement import place_assignment
from drlpp.cost.problem_arrays import offset_rows, problem_arrays
from drlpp.errors import InputError
from drlpp.plan import Assignment
from drlpp.problem import PlanningProblem
from drlpp.schedules.arena import entry, kernel

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]
REFRESH_AFTER = 10_000
"""Moves after which the loads are summed anew, so that rounding errors do not grow."""


class MoveState(NamedTuple):
    """The state: N ops, V values (an op's tensor in a phase), P parameters, S stages in L slots on U devices.

    Attributes:
        labels: ``[N]`` stage of each op.
        load: ``[U]`` seconds per micro-batch of each device, without `tied_load`.
        tied_load: ``[U]`` the share of all-reduces of parameters that several stages read.
        op_s: ``[N, L]`` seconds that an op adds to the device of a slot if it is in the slot's stage.
        source, size, given_s, backward: ``[V]`` producing op, bytes, seconds or -1, 1 in the backward phase.
        users, grad_users: ``[V, S]`` consuming edges of a value by stage; those with a gradient.
        out_off, out_value: values that each op produces. in_off, in_value, in_grad: edges that it consumes.
        param_off, param: parameters that each op reads. param_bytes, readers: ``[P]``, ``[P, S]``.
        own_bytes: ``[S]`` parameters that only this stage reads.
        shared: parameters with more than one reading op.
        keys, counts: hash table of messages; ``mark``: ``[S]`` random words. Last entry of `keys` unused.
        slot_off, slot_device, host, link_bandwidth, link_latency_s, port_bandwidth, port_latency_s: as in
            `PlacedStages`.
        scratch_device, scratch_stage, saved: work space.
        counter: ``[3]`` a stamp, the entries of the table in use, and the moves since the last refresh.
    """

    num_microbatches: int
    labels: _Ints
    load: _Floats
    tied_load: _Floats
    op_s: _Floats
    source: _Ints
    size: _Floats
    given_s: _Floats
    backward: _Ints
    users: _Ints
    grad_users: _Ints
    out_off: _Ints
    out_value: _Ints
    in_off: _Ints
    in_value: _Ints
    in_grad: _Ints
    param_off: _Ints
    param: _Ints
    param_bytes: _Floats
    readers: _Ints
    own_bytes: _Floats
    shared: _Ints
    keys: NDArray[np.uint64]
    counts: _Ints
    mark: NDArray[np.uint64]
    slot_off: _Ints
    slot_device: _Ints
    host: _Ints
    link_bandwidth: _Floats
    link_latency_s: _Floats
    port_bandwidth: _Floats
    port_latency_s: _Floats
    scratch_device: _Ints
    scratch_stage: _Ints
    saved: _Floats
    counter: _Ints


class IncrementalBottleneck:
    """The bottleneck of an assignment under moves of single ops.

    Compiled searches take `state` and call `move_op` and `bottleneck` themselves.

    Raises:
        InputError: a tensor has several producers, or its edges take different times.
        PlanError, ScheduleError: as `Evaluator.evaluate`.
    """

    def __init__(self, problem: PlanningProblem, assignment: Assignment) -> None:
        self._problem, self._assignment = problem, assignment
        self.state = _move_state(problem, assignment)
        refresh(self.state)

    @property
    def bottleneck_s(self) -> float:
        return float(bottleneck(self.state))

    def cost_of_move(self, op: int, stage: int) -> float:
        """The bottleneck if `op` were in `stage`; whether that is legal is not checked (`legal_range`)."""
        return float(cost_of_move(self.state, op, stage))

    def move(self, op: int, stage: int) -> float:
        """Moves an op; returns the bottleneck."""
        move_op(self.state, op, stage)
        if self.state.counter[2] >= REFRESH_AFTER:
            refresh(self.state)
        return self.bottleneck_s

    def legal_range(self, op: int) -> tuple[int, int]:
        """The lowest and the highest stage that the op may be in while the others stay."""
        labels, graph = self.state.labels, self._problem.graph
        low = max((int(labels[i]) for i in graph.predecessors[op]), default=0)
        high = min((int(labels[i]) for i in graph.successors[op]), default=self._assignment.num_stages - 1)
        return low, high

    @property
    def labels(self) -> _Ints:
        """``[N]`` the stages as they are now; one may be empty (`Assignment.compact`)."""
        return self.state.labels.copy()


def _move_state(problem: PlanningProblem, assignment: Assignment) -> MoveState:
    graph, arrays = problem.graph, problem_arrays(problem)
    placed = place_assignment(problem, arrays, assignment)
    num_values, num_stages = len(arrays.value_tensor), assignment.num_stages
    source = np.full(num_values, -1, dtype=np.int64)
    given = np.full(num_values, -1.0)
    for e, (s, v, seconds) in enumerate(zip(arrays.edge_src, arrays.edge_value, arrays.edge_s, strict=True)):
        if source[v] >= 0 and (source[v] != s or given[v] != seconds):
            raise InputError(
                f"tensor {graph.edges[e].tensor!r} of graph {graph.name!r} has several producers or transfer times: "
                "moves need one of each"
            )
        source[v], given[v] = s, seconds
    type_of = arrays.device_type[placed.used[placed.slot_device]]
    recompute = np.repeat(np.array(assignment.recompute), np.diff(placed.slot_off))
    replicas = np.repeat(np.diff(placed.slot_off), np.diff(placed.slot_off))
    once = arrays.forward_s + arrays.input_grad_s + arrays.weight_grad_s
    total = once[type_of] + np.where(recompute[:, None], arrays.forward_s[type_of], 0.0)
    outs: list[list[int]] = [[] for _ in graph.ops]
    ins: list[list[tuple[int, int]]] = [[] for _ in graph.ops]
    for v, s in enumerate(source.tolist()):
        outs[s].append(v)
    for d, v, g in zip(arrays.edge_dst.tolist(), arrays.edge_value.tolist(), arrays.edge_grad.tolist(), strict=True):
        ins[d].append((v, g))
    params: list[list[int]] = [[] for _ in graph.ops]
    for p in range(len(arrays.param_bytes)):
        for o in sorted(set(arrays.reader[arrays.reader_off[p] : arrays.reader_off[p + 1]].tolist())):
            params[o].append(p)
    num_readers = np.bincount([p for row in params for p in row], minlength=len(arrays.param_bytes))
    out_off, out_value = offset_rows(outs)
    in_off, in_value = offset_rows([[v for v, _ in row] for row in ins])
    param_off, param = offset_rows(params)
    table = 1 << int(np.ceil(np.log2(8 * max(1, num_values) + 64)))
    num_used = len(placed.used)
    return MoveState(
        num_microbatches=arrays.num_microbatches,
        labels=np.array(assignment.stage_of_op, dtype=np.int64),
        load=np.zeros(num_used),
        tied_load=np.zeros(num_used),
        op_s=np.ascontiguousarray(total.T / replicas),
        source=source,
        size=arrays.tensor_bytes[arrays.value_tensor],
        given_s=given,
        backward=arrays.value_backward,
        users=np.zeros((num_values, num_stages), dtype=np.int64),
        grad_users=np.zeros((num_values, num_stages), dtype=np.int64),
        out_off=out_off,
        out_value=out_value,
        in_off=in_off,
        in_value=in_value,
        in_grad=np.array([g for row in ins for _, g in row], dtype=np.int64),
        param_off=param_off,
        param=param,
        param_bytes=arrays.param_bytes,
        readers=np.zeros((len(arrays.param_bytes), num_stages), dtype=np.int64),
        own_bytes=np.zeros(num_stages),
        shared=np.flatnonzero(num_readers > 1).astype(np.int64),
        keys=np.zeros(table, dtype=np.uint64),
        counts=np.zeros(table, dtype=np.int64),
        mark=np.random.default_rng(0).integers(1, 2**63, size=num_stages + 4, dtype=np.uint64),
        slot_off=placed.slot_off,
        slot_device=placed.slot_device,
        host=placed.host,
        link_bandwidth=placed.link_bandwidth,
        link_latency_s=placed.link_latency_s,
        port_bandwidth=placed.port_bandwidth,
        port_latency_s=placed.port_latency_s,
        scratch_device=np.zeros(num_used, dtype=np.int64),
        scratch_stage=np.zeros(num_stages, dtype=np.int64),
        saved=np.zeros(num_used),
        counter=np.zeros(3, dtype=np.int64),
    )


@kernel
def slot_of(slot_off, stage, microbatch):  # type: ignore[no-untyped-def]
    """The slot that runs a micro-batch of a stage."""
    first = slot_off[stage]
    replicas = slot_off[stage + 1] - first
    return first if replicas == 1 else first + microbatch % replicas


@entry
def refresh(st):  # type: ignore[no-untyped-def]
    """Sums everything anew from the labels."""
    st.load[:] = 0.0
    st.users[:] = 0
    st.grad_users[:] = 0
    st.readers[:] = 0
    st.own_bytes[:] = 0.0
    st.keys[:] = np.uint64(0)
    st.counts[:] = 0
    st.counter[1] = 0
    st.counter[2] = 0
    for o in range(len(st.labels)):
        s = st.labels[o]
        _compute(st, o, s, 1.0)
        for i in range(st.in_off[o], st.in_off[o + 1]):
            st.users[st.in_value[i], s] += 1
            st.grad_users[st.in_value[i], s] += st.in_grad[i]
        for i in range(st.param_off[o], st.param_off[o + 1]):
            st.readers[st.param[i], s] += 1
    for v in range(len(st.source)):
        _value(st, v, 1.0)
    for p in range(len(st.param_bytes)):
        count, last = 0, 0
        for s in range(len(st.own_bytes)):
            if st.readers[p, s] > 0:
                count += 1
                last = s
        if count == 1:
            st.own_bytes[last] += st.param_bytes[p]
    for s in range(len(st.own_bytes)):
        _reduce(st, st.load, s, 1.0)
    _reduce_tied(st)


@entry
def bottleneck(st):  # type: ignore[no-untyped-def]
    """The largest load of a device."""
    most = 0.0
    for u in range(len(st.load)):
        most = max(most, st.load[u] + st.tied_load[u])
    return most


@entry
def move_op(st, op, stage):  # type: ignore[no-untyped-def]
    """Moves an op to a stage."""
    old = st.labels[op]
    if old == stage:
        return
    st.counter[2] += 1
    if 2 * st.counter[1] > len(st.keys):
        st.labels[op] = stage
        refresh(st)
        return
    for i in range(st.out_off[op], st.out_off[op + 1]):
        _value(st, st.out_value[i], -1.0)
    for i in range(st.in_off[op], st.in_off[op + 1]):
        if _first_use(st, op, i):
            _value(st, st.in_value[i], -1.0)
    for i in range(st.in_off[op], st.in_off[op + 1]):
        v = st.in_value[i]
        st.users[v, old] -= 1
        st.users[v, stage] += 1
        st.grad_users[v, old] -= st.in_grad[i]
        st.grad_users[v, stage] += st.in_grad[i]
    st.labels[op] = stage
    for i in range(st.out_off[op], st.out_off[op + 1]):
        _value(st, st.out_value[i], 1.0)
    for i in range(st.in_off[op], st.in_off[op + 1]):
        if _first_use(st, op, i):
            _value(st, st.in_value[i], 1.0)
    _compute(st, op, old, -1.0)
    _compute(st, op, stage, 1.0)
    if st.param_off[op] < st.param_off[op + 1]:
        _move_parameters(st, op, old, stage)


@entry
def cost_of_move(st, op, stage):  # type: ignore[no-untyped-def]
    """The bottleneck if an op were in a stage; the state is as before, to the last bit of the loads."""
    old = st.labels[op]
    for u in range(len(st.load)):
        st.saved[u] = st.load[u]
    moves = st.counter[2]
    move_op(st, op, stage)
    cost = bottleneck(st)
    move_op(st, op, old)
    for u in range(len(st.load)):
        st.load[u] = st.saved[u]
    st.counter[2] = moves
    return cost


@kernel
def _first_use(st, op, i):  # type: ignore[no-untyped-def]
    """Whether the i-th consumed edge is the op's first of its value (an op may use a value twice)."""
    for j in range(st.in_off[op], i):  # noqa: SIM110  (compiled)
        if st.in_value[j] == st.in_value[i]:
            return False
    return True


@kernel
def _compute(st, op, stage, sign):  # type: ignore[no-untyped-def]
    for i in range(st.slot_off[stage], st.slot_off[stage + 1]):
        st.load[st.slot_device[i]] += sign * st.op_s[op, i]


@kernel
def _entry(st, key):  # type: ignore[no-untyped-def]
    """The place of a message in the hash table (a new one if it is not there)."""
    mask = len(st.keys) - 1
    i = np.int64(key & np.uint64(mask))
    while st.keys[i] != key:
        if st.keys[i] == np.uint64(0):
            st.keys[i] = key
            st.counter[1] += 1
            break
        i = (i + 1) & mask
    return i


@kernel
def _value(st, v, sign):  # type: ignore[no-untyped-def]
    """Adds (sign 1) or takes away (-1) the transfers of a value."""
    s = st.labels[st.source[v]]
    receivers, grad = 0, False
    key = np.uint64(0)
    for t in range(st.users.shape[1]):
        if st.users[v, t] > 0 and t != s:
            st.scratch_stage[receivers] = t
            receivers += 1
            grad = grad or st.grad_users[v, t] > 0
            key ^= st.mark[t]
    if receivers == 0:
        return
    backward, given = st.backward[v] == 1, st.given_s[v]
    num_stages = st.users.shape[1]
    if grad:
        key ^= st.mark[num_stages]
    if backward:
        key ^= st.mark[num_stages + 1]
    if given >= 0.0:
        key ^= st.mark[num_stages + 2]
    key = (key ^ (np.uint64(s) * st.mark[num_stages + 3])) * np.uint64(0x9E3779B97F4A7C15)
    key = (key ^ (key >> np.uint64(31))) | np.uint64(1)
    entry = _entry(st, key)
    if sign < 0.0:
        st.counts[entry] -= 1
    new = st.counts[entry] == 0
    if sign > 0.0:
        st.counts[entry] += 1
    _message(st, s, receivers, grad and not backward, given, st.size[v], new, sign)


@kernel
def _message(st, s, receivers, grad, given, size, with_latency, sign):  # type: ignore[no-untyped-def]
    """Adds the load of moving `size` bytes from stage s to the stages in the work space, averaged over a period."""
    period = st.slot_off[s + 1] - st.slot_off[s]
    for r in range(receivers):
        t = st.scratch_stage[r]
        a, b = period, st.slot_off[t + 1] - st.slot_off[t]
        while b:
            a, b = b, a % b
        period = min(LONGEST_PERIOD, period // a * (st.slot_off[t + 1] - st.slot_off[t]))
    share = sign / period
    for m in range(period):
        p = st.slot_device[slot_of(st.slot_off, s, m)]
        st.counter[0] += 1
        stamp = st.counter[0]
        st.scratch_device[p] = stamp
        sent = False
        for r in range(receivers):
            q = st.slot_device[slot_of(st.slot_off, st.scratch_stage[r], m)]
            if st.scratch_device[q] == stamp:
                continue
            st.scratch_device[q] = stamp
            if given >= 0.0:
                seconds = given
            else:
                h, g = st.host[p], st.host[q]
                if h == g:
                    seconds = size / st.link_bandwidth[h]
                    if with_latency:
                        seconds += st.link_latency_s[h]
                else:
                    seconds = size / min(st.port_bandwidth[h], st.port_bandwidth[g])
                    if with_latency:
                        seconds += st.port_latency_s[h] + st.port_latency_s[g]
            seconds *= share
            st.load[q] += seconds
            if given < 0.0 or not sent:
                st.load[p] += seconds
                sent = True
            if grad:
                st.load[q] += seconds
                st.load[p] += seconds


@kernel
def _move_parameters(st, op, old, stage):  # type: ignore[no-untyped-def]
    _reduce(st, st.load, old, -1.0)
    _reduce(st, st.load, stage, -1.0)
    tied = False
    for i in range(st.param_off[op], st.param_off[op + 1]):
        p = st.param[i]
        before = _only_reader(st, p)
        st.readers[p, old] -= 1
        st.readers[p, stage] += 1
        after = _only_reader(st, p)
        for r in range(len(st.shared)):
            tied = tied or st.shared[r] == p
        for s, sign in ((before, -1.0), (after, 1.0)):
            if s >= 0:
                if s != old and s != stage:
                    _reduce(st, st.load, s, -1.0)
                st.own_bytes[s] += sign * st.param_bytes[p]
                if s != old and s != stage:
                    _reduce(st, st.load, s, 1.0)
    for s in (old, stage):
        if st.own_bytes[s] < 1e-3:  # nothing but rounding errors: sizes are whole bytes
            st.own_bytes[s] = 0.0
        _reduce(st, st.load, s, 1.0)
    if tied:
        _reduce_tied(st)


@kernel
def _only_reader(st, p):  # type: ignore[no-untyped-def]
    """The stage that reads a parameter, or -1 if several do."""
    only = -1
    for s in range(st.readers.shape[1]):
        if st.readers[p, s] > 0:
            if only >= 0:
                return -1
            only = s
    return only


@kernel
def _reduce(st, load, stage, sign):  # type: ignore[no-untyped-def]
    """Adds the all-reduce of a stage's own parameters."""
    first, last = st.slot_off[stage], st.slot_off[stage + 1]
    if last - first < 2 or st.own_bytes[stage] <= 0.0:
        return
    st.counter[0] += 1
    for i in range(first, last):
        st.scratch_device[st.slot_device[i]] = st.counter[0]
    _all_reduce(st, load, st.own_bytes[stage], sign)


@kernel
def _reduce_tied(st):  # type: ignore[no-untyped-def]
    """Sums the all-reduces of parameters that several stages read: one for all that the same stages read."""
    st.tied_load[:] = 0.0
    for i in range(len(st.shared)):
        p = st.shared[i]
        if _only_reader(st, p) >= 0:
            continue
        size, first = 0.0, True
        for j in range(len(st.shared)):
            q = st.shared[j]
            same = True
            for s in range(st.readers.shape[1]):
                same = same and (st.readers[p, s] > 0) == (st.readers[q, s] > 0)
            if same:
                if j < i:
                    first = False
                size += st.param_bytes[q]
        if not first or size <= 0.0:
            continue
        st.counter[0] += 1
        for s in range(st.readers.shape[1]):
            if st.readers[p, s] > 0:
                for r in range(st.slot_off[s], st.slot_off[s + 1]):
                    st.scratch_device[st.slot_device[r]] = st.counter[0]
        _all_reduce(st, st.tied_load, size, 1.0)


@kernel
def _all_reduce(st, load, size, sign):  # type: ignore[no-untyped-def]
    """Adds the share per micro-batch of an all-reduce over the devices with the current stamp."""
    stamp = st.counter[0]
    inside, hosts, bandwidth, latency, devices = 0.0, 0, np.inf, 0.0, 0
    u = 0
    while u < len(st.host):  # devices of a host are neighbours
        h, n = st.host[u], 0
        while u < len(st.host) and st.host[u] == h:
            n += st.scratch_device[u] == stamp
            u += 1
        if n:
            devices += n
            hosts += 1
            bandwidth = min(bandwidth, st.port_bandwidth[h])
            latency = max(latency, st.port_latency_s[h])
            if n > 1:
                inside = max(inside, 2 * (n - 1) / n * size / st.link_bandwidth[h] + 2 * (n - 1) * st.link_latency_s[h])
    if devices < 2:
        return
    seconds = inside
    if hosts > 1:
        seconds += 2 * (hosts - 1) / hosts * size / bandwidth + 2 * (hosts - 1) * (2 * latency)
    for u in range(len(st.host)):
        if st.scratch_device[u] == stamp:
            load[u] += sign * seconds / st.num_microbatches
