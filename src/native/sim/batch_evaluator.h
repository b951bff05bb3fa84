// Evaluates many assignments of one problem in one call: costs, messages, schedules, simulation.
#pragma once

#include <mutex>
#include <vector>

#include "cost/placement.h"
#include "cost/problem_arrays.h"
#include "schedules/selection.h"

namespace drlpp {

// Results of B assignments on D devices: `sim.evaluator.Evaluations` in Python.
struct Evaluations {
  Ints schedule;                     // [B]; -1 if none applies, -2 if the partition is not legal
  Reals iteration_time_s, bottleneck_s, over_memory_bytes;  // [B]
  Matrix peak_memory_bytes;          // [B, D]
  Matrix compute_s;                  // [B, D] seconds of the iteration that a device computes

  template <class Visitor>
  void visit(Visitor& field) {
    field("schedule", schedule);
    field("iteration_time_s", iteration_time_s);
    field("bottleneck_s", bottleneck_s);
    field("over_memory_bytes", over_memory_bytes);
    field("peak_memory_bytes", peak_memory_bytes);
    field("compute_s", compute_s);
  }
};

constexpr Int NO_SCHEDULE = -1, ILLEGAL = -2;

class BatchEvaluator {
 public:
  BatchEvaluator(ProblemArrays problem, Int num_threads);

  const ProblemArrays& problem() const { return problem_; }

  // Evaluates under the best of the wanted schedules (`Selection::choose`). One caller at a time; others wait.
  // `order`, if any, becomes the order of the last assignment.
  Evaluations evaluate(const PackedAssignments& packed, const Selection::Wanted& wanted, double give_up_s,
                       FlatSchedule* order = nullptr);

  // The [D] loads of the devices; empty if the partition is not legal.
  Reals loads(const AssignmentView& assignment);

 private:
  struct Worker {
    Placement placement;
    PlacedStages placed;
    Selection selection;
    Reals loads;
  };

  void evaluate_part(Worker& worker, const PackedAssignments& packed, Int begin, Int end,
                     const Selection::Wanted& wanted, double give_up_s, Evaluations& out);
  void evaluate_one(Worker& worker, const AssignmentView& assignment, Int b, const Selection::Wanted& wanted,
                    double give_up_s, Evaluations& out);

  ProblemArrays problem_;
  std::vector<Worker> workers_;
  std::mutex mutex_;
};

}  // namespace drlpp
