#include "schedules/list_scheduler.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace drlpp {

void ListScheduler::begin_slots(const MessageMemory& messages, const Depths& depths) {
  const PlacedStages& p = *p_;
  const Int num_mb = p.num_microbatches;
  slots_.resize(p.num_slots());
  device_off_.assign(p.num_devices() + 1, 0);
  for (Int s = 0; s < p.num_stages(); ++s) {
    for (Int i = p.slot_off[s]; i < p.slot_off[s + 1]; ++i) {
      Slot& slot = slots_[i];
      slot.stage = s;
      slot.count = p.slot_microbatches[i];
      slot.first = p.first_microbatch(i);
      slot.round = p.round(s);
      slot.has_one_turn = p.turns(i) == 1;
      slot.to_sink = depths.to_sink[i];
      slot.held_bytes = p.held_bytes[s] + (split_ ? p.remade_bytes[s] : -messages.shared[i]);
      const double in_flight = options_->slack * static_cast<double>(slot.to_sink) *
                               static_cast<double>(p.turns(i)) / static_cast<double>(p.round(s));
      slot.limit = in_flight >= static_cast<double>(num_mb)
                       ? num_mb
                       : std::max<Int>(1, static_cast<Int>(std::ceil(in_flight - 1e-6)));
      std::fill(std::begin(slot.started), std::end(slot.started), 0);
      ++device_off_[p.slot_device[i] + 1];
    }
  }
  for (Int d = 0; d < p.num_devices(); ++d) device_off_[d + 1] += device_off_[d];
  device_slot_.resize(p.num_slots());
  fill_.assign(device_off_.begin(), device_off_.end() - 1);
  for (Int i = 0; i < p.num_slots(); ++i) device_slot_[fill_[p.slot_device[i]]++] = i;
}

// The memory for micro-batches: what the parameters and the buffers of messages leave.
void ListScheduler::begin_memory(const MessageMemory& messages) {
  const PlacedStages& p = *p_;
  memory_.assign(p.num_devices(), Memory{});
  for (Int d = 0; d < p.num_devices(); ++d) {
    double again = 0.0, largest = 0.0;
    for (Int r = device_off_[d]; r < device_off_[d + 1] && !split_; ++r) {
      again = std::max(again, p.again_bytes[slots_[device_slot_[r]].stage]);
    }
    double& capacity = memory_[d].capacity;
    capacity = p.memory_bytes[d] - p.resident_bytes[d] - again;
    for (Int r = device_off_[d]; r < device_off_[d + 1]; ++r) {
      const Int slot = device_slot_[r];
      largest = std::max(largest, std::max(messages.before_forward[slot], messages.before_backward[slot]));
      capacity -= RETURNS_KEPT * messages.returned[slot];
    }
    capacity -= (1 + LOOKAHEAD) * largest;
  }
}

void ListScheduler::begin(const MessageMemory& messages, const Depths& depths) {
  const PlacedStages& p = *p_;
  begin_slots(messages, depths);
  begin_memory(messages);
  empty_orders(p, split_ ? 3 : 2, *flat_, fill_);
  state_.begin(p);
  queue_.clear();
  event_device_.clear();
  running_.assign(p.num_devices(), Running{});
  work_left_ = *options_->work_s;
  limited_ = false;
}

void ListScheduler::add_event(double when, Int device) {
  queue_.push(when, size_of(event_device_));
  event_device_.push_back(device);
}

void ListScheduler::end_action(Int device, double now) {
  Running& running = running_[device];
  const Slot& slot = slots_[running.slot];
  const Phase phase = running.phase;
  const Int microbatch = flat_->microbatch[fill_[device] - 1];
  running.event = -1;
  if (phase == (split_ ? NEXT_WEIGHTS : NEXT_BACKWARD)) {
    memory_[device].reserved -= slot.held_bytes;
    --memory_[device].outstanding;
  }
  if (phase == NEXT_WEIGHTS) return;
  state_.finish(device, slot.stage, microbatch, phase == NEXT_BACKWARD, now, [&](Int q, Int index) {
    const double ready_s = state_.ready_s(index);
    const bool later = q != device || ready_s > now;
    if (later && (running_[q].event < 0 || running_[q].end_s < ready_s)) add_event(ready_s, q);
  });
}

// Bytes that a micro-batch needs on a device for all of its stages there, and the number of these stages.
ListScheduler::Need ListScheduler::need(Int device, Int microbatch) const {
  Need out;
  for (Int r = device_off_[device]; r < device_off_[device + 1]; ++r) {
    const Slot& slot = slots_[device_slot_[r]];
    if (p_->slot(slot.stage, microbatch) != device_slot_[r]) continue;
    out.bytes += slot.held_bytes;
    ++out.stages;
  }
  return out;
}

// Whether all micro-batches up to this one can be admitted; one always can be if nothing else is there.
bool ListScheduler::fits(Int device, Int microbatch) const {
  const Memory& memory = memory_[device];
  double size = 0.0;
  Int stages = memory.outstanding;
  for (Int m = memory.admitted; m <= microbatch; ++m) {
    const Need more = need(device, m);
    if (more.stages && stages && memory.reserved + size + more.bytes > memory.capacity) return false;
    size += more.bytes;
    stages += more.stages;
  }
  return true;
}

void ListScheduler::consider_forward(Int device, Int slot_index, double now, Choice& best) {
  const Slot& slot = slots_[slot_index];
  const Int i = slot.started[NEXT_FORWARD];
  if (i >= slot.count) return;
  const Int m = next(slot_index, NEXT_FORWARD), index = state_.index(false, slot.stage, m);
  const Int key = 2 * m - slot.to_sink;
  if (state_.missing(index) != 0 || state_.ready_s(index) > now || key >= best.key) return;
  if (i - freed(slot) >= slot.limit) {
    limited_ = true;
  } else if (m < memory_[device].admitted || fits(device, m)) {
    best = {NEXT_FORWARD, slot_index, key};
  }
}

void ListScheduler::consider_weights(Int device, Choice& best) {
  for (Int r = device_off_[device]; r < device_off_[device + 1]; ++r) {
    const Slot& slot = slots_[device_slot_[r]];
    if (slot.started[NEXT_WEIGHTS] >= slot.started[NEXT_BACKWARD]) continue;
    const Int key = 2 * next(device_slot_[r], NEXT_WEIGHTS) + slot.to_sink;
    if (key < best.key) best = {NEXT_WEIGHTS, device_slot_[r], key};
  }
}

ListScheduler::Choice ListScheduler::most_urgent(Int device, double now) {
  Choice best;
  for (Int r = device_off_[device]; r < device_off_[device + 1]; ++r) {
    const Slot& slot = slots_[device_slot_[r]];
    if (slot.started[NEXT_BACKWARD] < slot.started[NEXT_FORWARD]) {
      const Int m = next(device_slot_[r], NEXT_BACKWARD), index = state_.index(true, slot.stage, m);
      const Int key = 2 * m + slot.to_sink - 1;
      if (state_.missing(index) == 0 && state_.ready_s(index) <= now && key < best.key) {
        best = {NEXT_BACKWARD, device_slot_[r], key};
      }
    }
    consider_forward(device, device_slot_[r], now, best);
  }
  if (split_ && best.phase == NO_PHASE) consider_weights(device, best);
  return best;
}

void ListScheduler::start_action(Int device, const Choice& choice, double now) {
  Slot& slot = slots_[choice.slot];
  const Int m = next(choice.slot, choice.phase);
  ++slot.started[choice.phase];
  if (choice.phase == NEXT_FORWARD) {
    Memory& memory = memory_[device];
    while (memory.admitted <= m) {
      const Need more = need(device, memory.admitted);
      memory.reserved += more.bytes;
      memory.outstanding += more.stages;
      ++memory.admitted;
    }
  }
  Int action = FORWARD;
  if (choice.phase == NEXT_BACKWARD) action = split_ ? INPUT_GRAD : BACKWARD;
  if (choice.phase == NEXT_WEIGHTS) action = WEIGHT_GRAD;
  flat_->set(fill_[device]++, slot.stage, action, m);
  const double seconds = p_->seconds(action, choice.slot);
  work_left_[device] -= seconds;
  running_[device] = {size_of(event_device_), choice.slot, choice.phase, now + seconds};
  add_event(now + seconds, device);
}

double ListScheduler::run(const PlacedStages& p, const Depths& depths, const MessageMemory& messages,
                          const Options& options, FlatSchedule& flat) {
  p_ = &p;
  options_ = &options;
  flat_ = &flat;
  split_ = options.split;
  begin(messages, depths);
  for (Int d = 0; d < p.num_devices(); ++d) add_event(0.0, d);
  double last = 0.0;
  while (!queue_.empty()) {
    const Int event = queue_.first(), d = event_device_[event];
    const double now = queue_.first_s();
    queue_.pop();
    if (running_[d].event >= 0) {
      if (running_[d].event != event) continue;  // an arrival while the device computes
      last = std::max(last, now);
      end_action(d, now);
    }
    const Choice choice = most_urgent(d, now);
    if (choice.phase == NO_PHASE) continue;
    if (now + work_left_[d] + (*options.after_s)[d] >= options.give_up_s) {
      return std::numeric_limits<double>::infinity();
    }
    start_action(d, choice, now);
  }
  return last;
}

}  // namespace drlpp
