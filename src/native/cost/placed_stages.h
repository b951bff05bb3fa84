// Stages on their devices as flat arrays: what schedules, replays and loads compute on. `cost.PlacedStages` in Python.
#pragma once

#include "border/checks.h"
#include "border/view.h"
#include "cost/links.h"

namespace drlpp {

enum Action : Int { FORWARD, BACKWARD, INPUT_GRAD, WEIGHT_GRAD };
constexpr Int NUM_ACTIONS = 4;

// S stages in L slots on U used devices of H hosts, with K messages to P stages in all, and G all-reduces. The fields
// are described in `cost/placed_stages.py`.
struct PlacedStages {
  Int num_microbatches = 0;
  Ints used, slot_off, slot_device;
  Ints round_off, round_slot, turn_off, turn, slot_microbatches;
  Matrix action_s;  // [NUM_ACTIONS, L]
  Reals held_bytes, again_bytes, remade_bytes, resident_bytes, gradient_bytes, memory_bytes, optimizer_s;
  Ints members;
  Ints message_off, message_backward, message_grad;
  Reals message_bytes, message_s;
  Ints message_src, dst_off, dst, returns_off, returns, forward_inputs, backward_inputs;
  Links links;
  Ints local;
  Int channel_width = 0;
  Int ports_shared = 0;
  Reals group_s;
  Ints group_pending, group_spans, group_off, group_device, group_host_off, group_host, stage_group_off, stage_group;

  Int num_stages() const { return size_of(slot_off) - 1; }
  Int num_slots() const { return size_of(slot_device); }
  Int num_devices() const { return size_of(used); }
  Int num_messages() const { return size_of(message_src); }
  Int num_groups() const { return size_of(group_s); }
  Int replicas(Int stage) const { return slot_off[stage + 1] - slot_off[stage]; }
  double seconds(Int action, Int slot) const { return action_s[action][slot]; }

  // Micro-batches after which the replicas of a stage take turns as before.
  Int round(Int stage) const { return round_off[stage + 1] - round_off[stage]; }
  // Micro-batches of a round that a slot runs; `turn` says which.
  Int turns(Int slot) const { return turn_off[slot + 1] - turn_off[slot]; }

  // The slot that runs a micro-batch of a stage.
  Int slot(Int stage, Int microbatch) const {
    const Int first = slot_off[stage];
    if (slot_off[stage + 1] - first == 1) return first;
    return round_slot[round_off[stage] + microbatch % round(stage)];
  }
  Int device(Int stage, Int microbatch) const { return slot_device[slot(stage, microbatch)]; }

  // The first micro-batch that a slot runs, and the i-th.
  Int first_microbatch(Int slot) const { return turn[turn_off[slot]]; }
  Int microbatch(Int stage, Int slot, Int i) const {
    return round(stage) * (i / turns(slot)) + turn[turn_off[slot] + i % turns(slot)];
  }

  // Calls `act(m)` for all micro-batches that a slot runs, in order.
  template <class Act>
  void for_microbatches(Int stage, Int slot, Act act) const {
    const Int length = round(stage), first = turn_off[slot], last = turn_off[slot + 1];
    if (last - first == 1) {
      for (Int m = turn[first]; m < num_microbatches; m += length) act(m);
      return;
    }
    for (Int start = 0; start < num_microbatches; start += length) {
      for (Int i = first; i < last && start + turn[i] < num_microbatches; ++i) act(start + turn[i]);
    }
  }

  // Whether all micro-batches of a slot of stage t come from one slot of stage s.
  bool meets_one_slot(Int s, Int t, Int slot) const {
    if (round(t) % round(s) != 0) return false;
    const Int of_first = this->slot(s, first_microbatch(slot));
    for (Int i = turn_off[slot] + 1; i < turn_off[slot + 1]; ++i) {
      if (this->slot(s, turn[i]) != of_first) return false;
    }
    return true;
  }

  // Whether stage t of the k-th message's receivers dst[j] is the first one on its device.
  bool first_there(Int k, Int j, Int microbatch, Int device_of_j) const {
    Int i = dst_off[k];
    while (i < j && device(dst[i], microbatch) != device_of_j) ++i;
    return i == j;
  }

  template <class Visitor>
  void visit(Visitor& field) {
    field("num_microbatches", num_microbatches);
    field("used", used);
    field("slot_off", slot_off);
    field("slot_device", slot_device);
    field("round_off", round_off);
    field("round_slot", round_slot);
    field("turn_off", turn_off);
    field("turn", turn);
    field("slot_microbatches", slot_microbatches);
    field("action_s", action_s);
    field("held_bytes", held_bytes);
    field("again_bytes", again_bytes);
    field("remade_bytes", remade_bytes);
    field("resident_bytes", resident_bytes);
    field("gradient_bytes", gradient_bytes);
    field("memory_bytes", memory_bytes);
    field("members", members);
    field("optimizer_s", optimizer_s);
    field("message_off", message_off);
    field("message_backward", message_backward);
    field("message_grad", message_grad);
    field("message_bytes", message_bytes);
    field("message_s", message_s);
    field("message_src", message_src);
    field("dst_off", dst_off);
    field("dst", dst);
    field("returns_off", returns_off);
    field("returns", returns);
    field("forward_inputs", forward_inputs);
    field("backward_inputs", backward_inputs);
    links.visit(field);
    field("local", local);
    field("channel_width", channel_width);
    field("ports_shared", ports_shared);
    field("group_s", group_s);
    field("group_pending", group_pending);
    field("group_spans", group_spans);
    field("group_off", group_off);
    field("group_device", group_device);
    field("group_host_off", group_host_off);
    field("group_host", group_host);
    field("stage_group_off", stage_group_off);
    field("stage_group", stage_group);
  }

  // Throws std::invalid_argument where sizes or indices do not agree.
  void check() const;
};

}  // namespace drlpp
