"""Interleaved schedules: p devices with n stages each, stage s on the (s mod p)-th device.

Interleaved 1F1B (Narayanan et al., "Efficient large-scale language model training on GPU clusters using Megatron-LM",
SC 2021) runs micro-batches in rounds of p and goes through its stages within a round; its zero-bubble form (Qi et al.,
"Zero bubble pipeline parallelism", ICLR 2024) splits the backward pass and delays W. The orders are those of
torch.distributed.pipelining, and are legal for any DAG of stages, since they are legal for a chain.
"""

from __future__ import annotations

from drlpp.schedules.arena import kernel
from drlpp.schedules.orders import BACKWARD, FORWARD, INPUT_GRAD, WEIGHT_GRAD, empty_orders


@kernel
def is_interleaved(p):  # type: ignore[no-untyped-def]
    """Whether the placement is a loop over the devices, more than once, with micro-batches in whole rounds."""
    num_stages, number = len(p.slot_off) - 1, len(p.used)
    if len(p.slot_device) > num_stages or num_stages % number != 0 or num_stages == number:
        return False
    for s in range(number, num_stages):
        if p.slot_device[s] != p.slot_device[s - number]:
            return False
    return p.num_microbatches % max(1, p.num_microbatches // number) == 0


@kernel
def interleaved(arena, p, split):  # type: ignore[no-untyped-def]
    """Interleaved 1F1B, with split backward passes if asked. `is_interleaved` says whether it applies."""
    number, num_mb = len(p.used), p.num_microbatches
    n = len(p.slot_device) // number
    round_size = num_mb // max(1, num_mb // number)
    per_kind = n * num_mb
    flat, fill = empty_orders(arena, p, 3 if split else 2)
    for rank in range(number):
        i = fill[p.slot_device[rank]]
        warm_up = min((n - 1) * round_size + (1 if split else 2) * (number - 1 - rank), per_kind)
        num_f, num_b, num_w = 0, 0, 0
        while num_w < per_kind:
            # after the warm-up forward and backward passes take turns; W follows `rank` backward passes later
            if split and num_w < num_b and (num_b - num_w > rank or num_b == per_kind):
                action, k = WEIGHT_GRAD, num_w
                num_w += 1
            elif num_f < per_kind and num_f <= warm_up + num_b:
                action, k = FORWARD, num_f
                num_f += 1
            else:
                action, k = INPUT_GRAD if split else BACKWARD, num_b
                num_b += 1
                if not split:
                    num_w += 1
            chunk = (k // round_size) % n
            if action != FORWARD:
                chunk = n - 1 - chunk
            flat.stage[i] = chunk * number + rank
            flat.kind[i] = action
            flat.microbatch[i] = (k // (round_size * n)) * round_size + k % round_size
            i += 1
    return flat
