#include "schedules/looped.h"

#include <algorithm>

namespace drlpp {

bool is_interleaved(const PlacedStages& p) {
  const Int stages = p.num_stages(), number = p.num_devices();
  if (p.num_slots() > stages || stages % number != 0 || stages == number) return false;
  for (Int s = number; s < stages; ++s) {
    if (p.slot_device[s] != p.slot_device[s - number]) return false;
  }
  return p.num_microbatches % std::max<Int>(1, p.num_microbatches / number) == 0;
}

void interleaved(const PlacedStages& p, bool split, FlatSchedule& flat, Ints& fill) {
  const Int number = p.num_devices(), num_mb = p.num_microbatches;
  const Int n = p.num_slots() / number;
  const Int round_size = num_mb / std::max<Int>(1, num_mb / number);
  const Int per_kind = n * num_mb;
  empty_orders(p, split ? 3 : 2, flat, fill);
  for (Int rank = 0; rank < number; ++rank) {
    Int at = fill[p.slot_device[rank]];
    const Int warm_up = std::min((n - 1) * round_size + (split ? 1 : 2) * (number - 1 - rank), per_kind);
    Int num_f = 0, num_b = 0, num_w = 0;
    while (num_w < per_kind) {
      // after the warm-up forward and backward passes take turns; W follows `rank` backward passes later
      Int action, k;
      if (split && num_w < num_b && (num_b - num_w > rank || num_b == per_kind)) {
        action = WEIGHT_GRAD;
        k = num_w++;
      } else if (num_f < per_kind && num_f <= warm_up + num_b) {
        action = FORWARD;
        k = num_f++;
      } else {
        action = split ? INPUT_GRAD : BACKWARD;
        k = num_b++;
        if (!split) ++num_w;
      }
      const Int chunk = (k / round_size) % n;
      const Int stage = (action == FORWARD ? chunk : n - 1 - chunk) * number + rank;
      flat.set(at++, stage, action, k / (round_size * n) * round_size + k % round_size);
    }
  }
}

bool is_v_shaped(const PlacedStages& p) {
  const Int stages = p.num_stages();
  if (p.num_slots() > stages || stages != 2 * p.num_devices()) return false;
  for (Int s = 0; s < stages; ++s) {
    if (p.slot_device[s] != p.slot_device[stages - 1 - s]) return false;
  }
  return true;
}

namespace {

// Writes the order of one device of a V: `down` is its stage on the way down, `up` that on the way up.
class VOrder {
 public:
  VOrder(FlatSchedule& flat, Int at, Int num_microbatches, Int down, Int up)
      : flat_(flat), at_(at), num_mb_(num_microbatches), stage_{down, up} {}

  void forward(Int way) { add(way, FORWARD, forwards_[way]++); }
  void input_grad(Int way) { add(way, INPUT_GRAD, backwards_[way]++); }
  // W of the micro-batch whose I was the last.
  void backward(Int way) {
    input_grad(way);
    add(way, WEIGHT_GRAD, backwards_[way] - 1);
  }
  void weight_grad(Int way, Int microbatch) { add(way, WEIGHT_GRAD, microbatch); }
  Int forwards(Int way) const { return forwards_[way]; }
  Int backwards(Int way) const { return backwards_[way]; }

 private:
  // Adds an action unless its micro-batch does not exist.
  void add(Int way, Int kind, Int microbatch) {
    if (microbatch < num_mb_) flat_.set(at_++, stage_[way], kind, microbatch);
  }

  FlatSchedule& flat_;
  Int at_, num_mb_;
  Int stage_[2];
  Int forwards_[2] = {0, 0}, backwards_[2] = {0, 0};
};

}  // namespace

void zbv(const PlacedStages& p, FlatSchedule& flat, Ints& fill) {
  constexpr Int down = 0, up = 1;
  const Int number = p.num_devices(), enough = std::max(2 * number - 1, p.num_microbatches);
  empty_orders(p, 3, flat, fill);
  for (Int rank = 0; rank < number; ++rank) {
    VOrder order(flat, fill[p.slot_device[rank]], p.num_microbatches, rank, 2 * number - 1 - rank);
    for (Int i = 0; i < 2 * (number - rank) - 1; ++i) order.forward(down);
    for (Int i = 0; i < rank; ++i) {
      order.forward(up);
      order.forward(down);
    }
    for (Int i = 0; i < number - rank; ++i) {
      order.forward(up);
      order.backward(up);
    }
    while (order.forwards(up) < order.forwards(down) || order.forwards(down) < enough) {
      if (order.forwards(down) < enough) order.forward(down);
      order.backward(down);
      order.forward(up);
      order.backward(up);
    }
    Int weights_down = order.backwards(down);
    const Int weights_up = order.backwards(up);
    for (Int i = 0; i < rank; ++i) {
      order.input_grad(down);
      order.input_grad(up);
    }
    for (Int i = 0; i < number - rank; ++i) {
      order.input_grad(down);
      order.weight_grad(down, weights_down++);
    }
    for (Int w = weights_up; w < order.backwards(up); ++w) order.weight_grad(up, w);
    for (Int w = weights_down; w < order.backwards(down); ++w) order.weight_grad(down, w);
  }
}

}  // namespace drlpp
