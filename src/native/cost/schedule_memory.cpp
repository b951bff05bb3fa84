#include "cost/schedule_memory.h"

#include <algorithm>

namespace drlpp {

namespace {

// What message k leaves in the slots of its receivers.
void add_received(const PlacedStages& p, Int k, MessageMemory& out) {
  const Int src = p.message_src[k];
  const double size = p.message_bytes[k];
  Reals& received = p.message_backward[k] ? out.before_backward : out.before_forward;
  for (Int j = p.dst_off[k]; j < p.dst_off[k + 1]; ++j) {
    const Int t = p.dst[j];
    for (Int slot = p.slot_off[t]; slot < p.slot_off[t + 1]; ++slot) {
      const Int m = p.first_microbatch(slot), d = p.slot_device[slot];
      if (p.device(src, m) == d) {
        const bool holds = p.message_grad[k] && p.again_bytes[src] == 0.0;
        if (holds && p.meets_one_slot(src, t, slot)) out.shared[slot] += size;
      } else if (p.first_there(k, j, m, d)) {
        const double copies = size * static_cast<double>(p.members[d]);
        received[slot] += copies;
        if (p.message_grad[k]) out.returned[slot] += copies;
      }
    }
  }
}

// The gradients that come back to the slots of message k's source.
void add_gradients(const PlacedStages& p, Int k, MessageMemory& out) {
  const Int src = p.message_src[k];
  for (Int slot = p.slot_off[src]; slot < p.slot_off[src + 1]; ++slot) {
    const Int m = p.first_microbatch(slot);
    for (Int j = p.dst_off[k]; j < p.dst_off[k + 1]; ++j) {
      const Int d = p.device(p.dst[j], m);
      if (d == p.slot_device[slot] || !p.first_there(k, j, m, d)) continue;
      out.before_backward[slot] += p.message_bytes[k] * static_cast<double>(p.members[p.slot_device[slot]]);
    }
  }
}

}  // namespace

void MessageMemory::measure(const PlacedStages& p) {
  for (Reals* bytes : {&before_forward, &before_backward, &returned, &shared}) bytes->assign(p.num_slots(), 0.0);
  for (Int k = 0; k < p.num_messages(); ++k) {
    add_received(p, k, *this);
    if (p.message_grad[k]) add_gradients(p, k, *this);
  }
}

void PeakMemory::measure(const PlacedStages& p, const MessageMemory& messages, const FlatSchedule& flat, Reals& peak) {
  kept_.assign(p.num_slots(), 0);
  read_.resize(flat.num_actions());
  peak = p.resident_bytes;
  for (Int i = 0; i < p.num_slots(); ++i) {
    if (p.slot_microbatches[i] > 0) peak[p.slot_device[i]] -= p.gradient_bytes[i];
  }
  for (Int i = 0; i < flat.num_actions(); ++i) {
    const Int slot = p.slot(flat.stage[i], flat.microbatch[i]), kind = flat.kind[i];
    read_[i] = kind == WEIGHT_GRAD ? 0.0 : kind == FORWARD ? messages.before_forward[slot] : messages.before_backward[slot];
  }
  for (Int d = 0; d < p.num_devices(); ++d) follow_device(p, messages, flat, d, peak[d]);
}

void PeakMemory::follow_device(
    const PlacedStages& p, const MessageMemory& messages, const FlatSchedule& flat, Int d, double& peak) {
  double memory = peak;
  const Int end = flat.offset[d + 1];
  for (Int i = flat.offset[d]; i < end; ++i) {
    const Int s = flat.stage[i], kind = flat.kind[i], slot = p.slot(s, flat.microbatch[i]);
    double during = 0.0;
    if (kind == FORWARD) {
      memory += p.held_bytes[s] - messages.shared[slot];
      during = memory;
    } else if (kind == BACKWARD) {
      during = memory + p.again_bytes[s] + read_[i];
      memory -= p.held_bytes[s] - messages.shared[slot];
    } else if (kind == INPUT_GRAD) {
      memory += p.remade_bytes[s] + messages.shared[slot];
      during = memory + read_[i];
    } else {
      during = memory;
      memory -= p.held_bytes[s] + p.remade_bytes[s];
    }
    for (Int j = i + 1; j < std::min(i + 1 + LOOKAHEAD, end); ++j) during += read_[j];
    peak = std::max(peak, during);
    if ((kind == BACKWARD || kind == INPUT_GRAD) && kept_[slot] < RETURNS_KEPT) {
      if (kept_[slot] == 0) memory += p.gradient_bytes[slot];
      ++kept_[slot];
      memory += messages.returned[slot];
    }
  }
  peak = std::max(peak, memory);
}

}  // namespace drlpp
