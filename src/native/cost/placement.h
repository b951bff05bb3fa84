// From an assignment straight to placed stages: what `PlanningProblem.stage_costs` and `place_stages` do together.
//
// An evaluation needs the costs and messages of the stages before it can simulate anything, and in Python finding these
// takes far longer than the simulation. Sums are in the same order there and here, so every number is the same to the
// last bit (`place_stages` stays the readable definition, and the oracle of the tests).
#pragma once

#include "cost/placed_stages.h"
#include "cost/problem_arrays.h"
#include "cost/stage_messages.h"
#include "cost/stage_parameters.h"

namespace drlpp {

// The count-th micro-batch of a round that a replica with a share runs.
struct Turn {
  Int count, share, slot;
};

// Places assignments; keeps its work space.
class Placement {
 public:
  // Places an assignment; false if the partition is not legal, and then `out` is of no use.
  bool place(const ProblemArrays& a, const AssignmentView& assignment, PlacedStages& out);

 private:
  bool is_legal(const ProblemArrays& a, const AssignmentView& assignment);
  void place_devices(const ProblemArrays& a, const AssignmentView& assignment, PlacedStages& out);
  void take_turns(const AssignmentView& assignment, PlacedStages& out);
  void place_hosts(const ProblemArrays& a, bool timed, PlacedStages& out);
  void add_times(const Matrix& op_s, const AssignmentView& assignment, Matrix& stage_s);
  void measure_again(const ProblemArrays& a, const AssignmentView& assignment);
  void measure_times(const ProblemArrays& a, const AssignmentView& assignment, PlacedStages& out);

  StageMessages messages_;
  StageParameters parameters_;
  Ints seen_, number_, host_number_, on_host_;
  std::vector<Turn> turns_;
  Matrix forward_s_, input_grad_s_, weight_grad_s_;  // [num_device_types, S]
  Matrix again_s_;  // the same of what runs again
};

}  // namespace drlpp
