// What event simulations of an iteration share: which inputs have arrived, links, and what happens when an action ends.
//
// `replay` runs orders that are given, `list_scheduler` makes one as it goes; both hand the end of every action to
// `EventState::finish`, which sends its messages and returns gradients, and says which actions have all inputs now.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cost/placed_stages.h"
#include "schedules/orders.h"

namespace drlpp {

class EventState {
 public:
  void begin(const PlacedStages& p) {
    p_ = &p;
    half_ = p.num_stages() * p.num_microbatches;
    counter_ = 0;
    missing_.resize(2 * half_);
    Int at = 0;
    for (const Ints* inputs : {&p.forward_inputs, &p.backward_inputs}) {
      for (Int number : *inputs) {
        for (Int m = 0; m < p.num_microbatches; ++m) missing_[at++] = static_cast<std::int32_t>(number);
      }
    }
    ready_.assign(2 * half_, 0.0);
    owing_.assign(size_of(p.dst) * p.num_microbatches, 0);
    stamp_.assign(p.num_devices(), 0);
    leader_.resize(p.num_devices());
    arrival_.resize(p.num_devices());
    channel_free_.assign(p.num_devices() * p.channel_width, 0.0);
    out_free_.assign(p.links.num_hosts(), 0.0);
    in_free_.assign(p.links.num_hosts(), 0.0);
  }

  // The number of an action F (`backward` false), or B or I, for `missing` and `ready_s`.
  Int index(bool backward, Int stage, Int microbatch) const {
    return (backward ? half_ : 0) + stage * p_->num_microbatches + microbatch;
  }
  // Inputs whose arrival is not known yet.
  std::int32_t missing(Int index) const { return missing_[index]; }
  // When the known inputs have arrived.
  double ready_s(Int index) const { return ready_[index]; }

  // Device d has ended F (`backward` false), or B or I, of a stage and a micro-batch at time `now`: sends its messages,
  // then the gradients that it returns. Calls `wake(device, index)` whenever the last input of an action is known.
  template <class Wake>
  void finish(Int d, Int stage, Int microbatch, bool backward, double now, Wake wake) {
    const PlacedStages& p = *p_;
    for (Int k = p.message_off[stage]; k < p.message_off[stage + 1]; ++k) {
      if ((p.message_backward[k] != 0) == backward) send(k, d, stage, microbatch, backward, now, wake);
    }
    if (!backward) return;
    for (Int r = p.returns_off[stage]; r < p.returns_off[stage + 1]; ++r) {
      return_gradient(p.returns[r], d, microbatch, now, wake);
    }
  }

  // Runs an all-reduce that was requested at `now`; `reduced[u]` is when the last one of device u ends.
  void all_reduce(Int group, double now, Reals& reduced) {
    const PlacedStages& p = *p_;
    double start = now;
    for (Int i = p.group_off[group]; i < p.group_off[group + 1]; ++i) {
      start = std::max(start, reduced[p.group_device[i]]);
    }
    const Int first = p.group_host_off[group], last = p.group_spans[group] ? p.group_host_off[group + 1] : first;
    for (Int i = first; i < last; ++i) {
      const Int h = p.group_host[i];
      start = std::max(start, std::max(out_free_[h], in_free_[h]));
    }
    const double end = start + p.group_s[group];
    for (Int i = first; i < last; ++i) out_free_[p.group_host[i]] = in_free_[p.group_host[i]] = end;
    for (Int i = p.group_off[group]; i < p.group_off[group + 1]; ++i) reduced[p.group_device[i]] = end;
  }

 private:
  // Sends message k to every device that has a receiver, once.
  template <class Wake>
  void send(Int k, Int d, Int stage, Int microbatch, bool backward, double now, Wake wake) {
    const PlacedStages& p = *p_;
    const Int num_mb = p.num_microbatches;
    ++counter_;
    std::int32_t receivers = 0;
    for (Int j = p.dst_off[k]; j < p.dst_off[k + 1]; ++j) {
      const Int t = p.dst[j], q = p.device(t, microbatch);
      if (stamp_[q] != counter_) {
        stamp_[q] = counter_;
        leader_[q] = j;
        ++receivers;
        arrival_[q] = q == d ? now : transfer(d, q, k, now);
      }
      ++owing_[leader_[q] * num_mb + microbatch];
      arrive(index(backward, t, microbatch), q, arrival_[q], wake);
    }
    if (p.message_grad[k]) missing_[index(true, stage, microbatch)] += receivers;
  }

  // Device d has one consumer less of message k that owes its gradient; the last one sends it back.
  template <class Wake>
  void return_gradient(Int k, Int d, Int microbatch, double now, Wake wake) {
    const PlacedStages& p = *p_;
    Int j = p.dst_off[k];
    while (p.device(p.dst[j], microbatch) != d) ++j;  // the first receiver on this device counts for all
    if (--owing_[j * p.num_microbatches + microbatch] > 0) return;
    const Int t = p.message_src[k], q = p.device(t, microbatch);
    arrive(index(true, t, microbatch), q, q == d ? now : transfer(d, q, k, now), wake);
  }

  template <class Wake>
  void arrive(Int to, Int device, double when, Wake wake) {
    ready_[to] = std::max(ready_[to], when);
    if (--missing_[to] == 0) wake(device, to);
  }

  // Requests the transfer of message k at time `now`; returns when it has arrived.
  double transfer(Int src, Int dst, Int k, double now) {
    const PlacedStages& p = *p_;
    const double given = p.message_s[k];
    const Int a = p.links.host[src], b = p.links.host[dst];
    if (given >= 0.0 || a == b) {
      double& free = channel_free_[src * p.channel_width + p.local[dst]];
      const double start = std::max(now, free);
      if (given >= 0.0) return free = start + given;
      const Path path = p.links.inside(src, dst);
      free = start + wire_s(path, p.message_bytes[k]);
      return free + path.latency_s;
    }
    const Path path = p.links.between(a, b);
    const double start = std::max(now, std::max(out_free_[a], in_free_[b]));
    const double end = start + wire_s(path, p.message_bytes[k]);
    out_free_[a] = in_free_[b] = end;
    return end + path.latency_s;
  }

  const PlacedStages* p_ = nullptr;
  Int half_ = 0, counter_ = 0;
  Words missing_;   // [2 S M]
  Reals ready_;     // [2 S M]
  Words owing_;     // [P M] stages on the device of receiver j that still have to return the gradient of a message
  Ints stamp_, leader_;  // [U] whether the message in hand was sent to a device, and its first receiver there
  Reals arrival_;        // [U] when it arrives
  Reals channel_free_, out_free_, in_free_;
};

}  // namespace drlpp
