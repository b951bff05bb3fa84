// Which schedule is best for placed stages: makes the orders of all that are wanted and replays them.
//
// The best is the fastest of those that fit the memory, else the one that exceeds it least. An order that cannot become
// the best is not made: no schedule ends before a lower bound of the work, and a list schedule is given up when it has
// no time left. A list schedule is chosen among the runs of the list scheduler and the orders of all named schedules
// that apply and split the backward pass as it does, so it is never worse than these.
#pragma once

#include <array>
#include <limits>

#include "cost/schedule_memory.h"
#include "schedules/list_scheduler.h"
#include "schedules/replay.h"
#include "schedules/waves.h"

namespace drlpp {

// The schedules, in the order of `schedules.registry`.
enum class ScheduleKind : Int {
  one_f_one_b,
  eager_1f1b,
  gpipe,
  interleaved_1f1b,
  zero_bubble,
  interleaved_zero_bubble,
  zbv,
  list,
  split_list,
};
constexpr Int NUM_SCHEDULES = 9;

// Whether a schedule runs backward passes as I and W.
bool splits_backward(ScheduleKind kind);

// Whether a schedule can be made for stages so placed, and makes sense.
bool applies(const PlacedStages& p, ScheduleKind kind);

// What a schedule with split backward passes has to save, as a part of the iteration, to be chosen over one without: so
// much longer than B take I + W of a stage of ordinary size on the CPU, which the simulator leaves out
// (docs/benchmarks.md).
constexpr double SPLIT_BACKWARD_COST = 0.05;

// Values of `slack` that the list scheduler tries, until one changes nothing.
constexpr std::array<double, 4> SLACKS = {1.0, 1.5, 2.5, std::numeric_limits<double>::infinity()};

// What an iteration takes at least, whatever the order.
struct WorkBound {
  bool known = false;
  double time_s = 0.0;
  Reals work_s, after_s;  // [U] seconds that a device computes, and that at least pass when it has done so

  template <class Visitor>
  void visit(Visitor& field) {
    field("time_s", time_s);
    field("work_s", work_s);
    field("after_s", after_s);
  }
};

class Selection {
 public:
  using Wanted = std::array<bool, NUM_SCHEDULES>;

  struct Result {
    Int kind = -1;  // -1 if no wanted schedule applies
    double time_s = std::numeric_limits<double>::infinity();
    double over_bytes = std::numeric_limits<double>::infinity();  // the worst excess over the memory of a device

    template <class Visitor>
    void visit(Visitor& field) {
      field("kind", kind);
      field("time_s", time_s);
      field("over_bytes", over_bytes);
    }
  };

  // Chooses among the wanted schedules that apply. If the first one fits and takes longer than `give_up_s`, no other is
  // tried.
  Result choose(const PlacedStages& p, const Wanted& wanted, double give_up_s);

  // [U] peak bytes, and the order, of the last choice.
  const Reals& peak_bytes() const { return best_peak_; }
  FlatSchedule& order() { return best_order_; }

  // A device cannot begin before the shortest way of the first micro-batch to it, and when it is done with the backward
  // pass of the last one the way back is left.
  void measure_bound(const PlacedStages& p, bool split, WorkBound& bound);

 private:
  void measure_ways(const PlacedStages& p, bool split);
  void make_named(const PlacedStages& p, ScheduleKind kind);
  void make_list(const PlacedStages& p, const WorkBound& bound, bool split, Int run, double enough_s);
  void keep_if_best(const PlacedStages& p, Int label, double cost);
  void try_kind(const PlacedStages& p, ScheduleKind kind, Int label);

  Depths depths_;
  MessageMemory messages_;
  PeakMemory memory_;
  Replay replay_;
  ListScheduler lister_;
  WaveSorter waves_;
  Wave wave_;
  WorkBound bounds_[2];
  Reals head_, tail_, forward_, backward_;  // [S]
  Reals first_, way_back_, weights_;        // [U]
  Ints fill_;
  FlatSchedule order_, best_order_;
  Reals peak_, best_peak_;
  double last_s_ = 0.0;  // when the last action of the order in hand ends at least
  double best_score_ = 0.0;
  Result best_;
};

}  // namespace drlpp
