// Orders of actions as flat arrays, and wave schedules: orders that follow from one number per action.
//
// In a wave schedule every row (a slot and a kind of action) has an offset and a stride, and the action on micro-batch
// m has the key `offset + stride * m`. Each device runs its actions by ascending key. If the key rises strictly along
// every dependency, the orders of all devices agree with one total order of all actions, so the schedule cannot
// deadlock, whatever the DAG of stages and the placement.
#pragma once

#include "cost/flat_schedule.h"
#include "cost/placed_stages.h"

namespace drlpp {

// Makes room for orders in which every micro-batch has `kinds` actions per stage; `fill[u]` is where device u begins.
void empty_orders(const PlacedStages& p, Int kinds, FlatSchedule& flat, Ints& fill);

// Rows of a wave schedule; row r belongs to slot r mod L.
struct Wave {
  Ints kind, offset, stride;

  void resize(Int num_rows) {
    kind.resize(num_rows);
    offset.resize(num_rows);
    stride.resize(num_rows);
  }
};

// Makes wave schedules; keeps its work space.
class WaveSorter {
 public:
  // Of equal keys that of the earlier row comes first.
  void sort(const PlacedStages& p, const Wave& wave, FlatSchedule& flat);

 private:
  struct Action {
    std::int32_t row, slot, microbatch;
  };

  Ints fill_, start_, slot_stage_;
  std::vector<Action> action_;
};

}  // namespace drlpp
