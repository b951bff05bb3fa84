#include "schedules/replay.h"

#include <algorithm>

namespace drlpp {

void Replay::begin() {
  const PlacedStages& p = *p_;
  const Int devices = p.num_devices();
  state_.begin(p);
  queue_.clear();
  woken_.clear();
  when_.assign(devices + p.num_groups(), 0.0);
  position_.assign(flat_->offset.begin(), flat_->offset.end() - 1);
  free_.assign(devices, 0.0);
  reduced_.assign(devices, 0.0);
  idle_.assign(devices, 1);
  slot_left_ = p.slot_microbatches;
  group_left_ = p.group_pending;
  ordered_ = p.ports_shared == 1;
  num_done_ = 0;
}

// Starts the next action of an idle device if all of its inputs are known, and notes the event.
void Replay::start(Int device) {
  const Int i = position_[device];
  if (i == flat_->offset[device + 1]) return;
  const Int stage = flat_->stage[i], kind = flat_->kind[i], microbatch = flat_->microbatch[i];
  double begin = free_[device];
  if (kind != WEIGHT_GRAD) {
    const Int index = state_.index(kind != FORWARD, stage, microbatch);
    if (state_.missing(index) > 0) return;
    begin = std::max(begin, state_.ready_s(index));
  }
  when_[device] = begin + p_->seconds(kind, p_->slot(stage, microbatch));
  idle_[device] = 0;
  woken_.push_back(device);
}

void Replay::end_backward(Int stage, Int microbatch, double end) {
  const PlacedStages& p = *p_;
  if (--slot_left_[p.slot(stage, microbatch)] > 0) return;
  for (Int r = p.stage_group_off[stage]; r < p.stage_group_off[stage + 1]; ++r) {
    const Int g = p.stage_group[r], event = p.num_devices() + g;
    when_[event] = std::max(when_[event], end);
    if (--group_left_[g] == 0 && ordered_) woken_.push_back(event);
  }
}

void Replay::end_action(Int device) {
  const Int i = position_[device];
  const Int stage = flat_->stage[i], kind = flat_->kind[i], microbatch = flat_->microbatch[i];
  const double end = when_[device];
  free_[device] = end;
  ++num_done_;
  if (kind != WEIGHT_GRAD) {
    state_.finish(device, stage, microbatch, kind != FORWARD, end, [this](Int q, Int) {
      if (idle_[q]) start(q);
    });
  }
  if (kind == BACKWARD || kind == WEIGHT_GRAD) end_backward(stage, microbatch, end);
  position_[device] = i + 1;
  idle_[device] = 1;
}

// Where the order of requests does not matter nothing but all-reduces is left.
void Replay::reduce_the_rest() {
  const Int devices = p_->num_devices();
  for (Int g = 0; g < p_->num_groups(); ++g) queue_.push(when_[devices + g], devices + g);
  while (!queue_.empty()) {
    const Int event = queue_.first();
    queue_.pop();
    state_.all_reduce(event - devices, when_[event], reduced_);
  }
}

double Replay::run(const PlacedStages& p, const FlatSchedule& flat) {
  p_ = &p;
  flat_ = &flat;
  begin();
  const Int devices = p.num_devices();
  Ints& stack = woken_;  // where the order does not matter, what was woken is handled last in, first out
  for (Int d = 0; d < devices; ++d) start(d);
  if (!ordered_) {
    while (!stack.empty()) {
      const Int d = stack.back();
      stack.pop_back();
      end_action(d);
      start(d);
    }
    reduce_the_rest();
  } else {
    while (true) {
      for (Int event : woken_) queue_.push(when_[event], event);
      woken_.clear();
      if (queue_.empty()) break;
      const Int event = queue_.first();
      if (event >= devices) {
        queue_.pop();
        state_.all_reduce(event - devices, when_[event], reduced_);
        continue;
      }
      end_action(event);
      // the next action of the device takes the place of this one in the queue
      const Int before = size_of(woken_);
      start(event);
      if (size_of(woken_) > before) {
        woken_.pop_back();
        queue_.replace_first(when_[event], event);
      } else {
        queue_.pop();
      }
    }
  }
  double time = 0.0;
  for (Int d = 0; d < devices; ++d) time = std::max(time, std::max(free_[d], reduced_[d]) + p.optimizer_s[d]);
  return time;
}

}  // namespace drlpp
