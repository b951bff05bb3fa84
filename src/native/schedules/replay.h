// Replays the orders of all devices: the iteration time of a schedule, fast.
//
// The semantics are those of `sim.simulator` (written down in `sim/__init__.py`), number for number; this one keeps no
// trace. What makes it fast: arrivals are not events, since an arrival only raises the earliest start of an action; one
// entry per device is in the queue of events; and where no two hosts talk to each other nothing but a device's own order
// matters, so that the queue becomes a stack.
#pragma once

#include "schedules/event_queue.h"
#include "schedules/event_state.h"
#include "schedules/orders.h"

namespace drlpp {

class Replay {
 public:
  // Seconds of the iteration. If `num_done` is smaller than the number of actions afterwards, the schedule deadlocks.
  double run(const PlacedStages& p, const FlatSchedule& flat);

  Int num_done() const { return num_done_; }

 private:
  void begin();
  void start(Int device);
  void end_action(Int device);
  void end_backward(Int stage, Int microbatch, double end);
  void reduce_the_rest();

  const PlacedStages* p_ = nullptr;
  const FlatSchedule* flat_ = nullptr;
  EventState state_;
  EventQueue queue_;     // events: ends of the running actions of devices, then requests of all-reduces
  Reals when_;           // [U + G]
  Ints woken_;           // events to be put into the queue
  Ints position_;        // [U] the running or the next action
  Reals free_;           // [U] end of the last action
  Reals reduced_;        // [U] end of the last all-reduce
  Words idle_;           // [U]
  Ints slot_left_;       // [L] backward passes that have not ended
  Ints group_left_;      // [G] slots of an all-reduce that are not done
  bool ordered_ = false; // the order of requests matters
  Int num_done_ = 0;
};

}  // namespace drlpp
