// A list scheduler: a schedule for any DAG of stages, any placement and unequal devices, within the memory.
//
// It simulates the iteration (with the links of the cluster) and lets every device that becomes free start, among the
// actions whose inputs are there, the most urgent one. Urgency is the action's place in 1F1B, by the longest path from
// the stage to the end (`Depths`): so the order is that of 1F1B where devices keep pace with it, and goes around
// whatever is late elsewhere. (Due dates in seconds were tried instead: schedules were 2 % slower on average.)
//
// How far a stage may run ahead is limited twice: by `slack` times the micro-batches that 1F1B has in flight, and by the
// memory. Memory is reserved for a micro-batch on all of a device's stages before the first of them starts, in order of
// the micro-batches; so the oldest one can always finish and nothing deadlocks.
//
// With `split` the backward pass is two actions, and W runs when nothing else can: this fills bubbles (as the
// zero-bubble schedules of Qi et al., ICLR 2024, do on chains).
//
// A run is given up once it cannot end before a given time, which is that of the best order so far (`Selection`).
//
// Left out: gradient all-reduces and the optimizer step. Micro-batches of one stage keep their order.
#pragma once

#include "cost/schedule_memory.h"
#include "schedules/event_queue.h"
#include "schedules/event_state.h"
#include "schedules/orders.h"
#include "schedules/waves.h"

namespace drlpp {

class ListScheduler {
 public:
  // Settings of a run.
  struct Options {
    double slack;
    bool split;
    const Reals* work_s;   // [U] seconds that a device computes
    const Reals* after_s;  // [U] that at least pass when it is done
    double give_up_s;      // the run is of no use if it does not end before
  };

  // Makes an order. Returns when the last action ends; infinity if the run was given up.
  double run(const PlacedStages& p, const Depths& depths, const MessageMemory& messages, const Options& options,
             FlatSchedule& flat);

  // Whether the slack ever held a micro-batch back in the last run: if not, more slack changes nothing.
  bool limited() const { return limited_; }

 private:
  // Phases of a micro-batch in a slot. `WEIGHTS` is one of its own only if backward passes are split.
  enum Phase : Int { NEXT_FORWARD, NEXT_BACKWARD, NEXT_WEIGHTS, NO_PHASE };
  struct Slot {
    Int stage, count;                   // micro-batches that it runs
    Int first, round;                   // they are first, first + round, ... if all slots of the stage have one turn
    bool has_one_turn;
    Int to_sink;                        // `Depths`
    Int limit;                          // micro-batches in flight
    double held_bytes;                  // by a micro-batch in flight
    Int started[3];                     // micro-batches that have had their F, backward and W started
  };
  struct Choice {
    Phase phase = NO_PHASE;
    Int slot = 0;
    Int key = Int{1} << 62;
  };
  struct Running {
    Int event = -1;  // -1 if the device is idle
    Int slot = 0;
    Phase phase = NO_PHASE;
    double end_s = 0.0;
  };
  struct Memory {
    double capacity = 0.0, reserved = 0.0;
    Int admitted = 0;     // micro-batches for which memory is reserved
    Int outstanding = 0;  // stages of these that have not finished
  };
  struct Need {
    double bytes = 0.0;
    Int stages = 0;
  };

  void begin(const MessageMemory& messages, const Depths& depths);
  void begin_slots(const MessageMemory& messages, const Depths& depths);
  void begin_memory(const MessageMemory& messages);
  void add_event(double when, Int device);
  void end_action(Int device, double now);
  Choice most_urgent(Int device, double now);
  void consider_forward(Int device, Int slot, double now, Choice& best);
  void consider_weights(Int device, Choice& best);
  void start_action(Int device, const Choice& choice, double now);
  Need need(Int device, Int microbatch) const;
  bool fits(Int device, Int microbatch) const;
  // The micro-batch of the next action of a phase.
  Int next(Int index, Phase phase) const {
    const Slot& slot = slots_[index];
    const Int i = slot.started[phase];
    return slot.has_one_turn ? slot.first + slot.round * i : p_->microbatch(slot.stage, index, i);
  }
  // What frees the memory of a micro-batch.
  Int freed(const Slot& slot) const { return slot.started[split_ ? 2 : 1]; }

  const PlacedStages* p_ = nullptr;
  const Options* options_ = nullptr;
  FlatSchedule* flat_ = nullptr;
  bool split_ = false, limited_ = false;
  EventState state_;
  EventQueue queue_;
  Ints event_device_;  // [events] of ends of actions, and of arrivals that may let an idle device start one
  std::vector<Slot> slots_;        // [L]
  Ints device_off_, device_slot_;  // slots of each device
  std::vector<Running> running_;   // [U]
  std::vector<Memory> memory_;     // [U]
  Reals work_left_;                // [U]
  Ints fill_;
};

}  // namespace drlpp
