// The parameters and buffers that the stages of a partition read: what devices hold of them, and which gradients are
// summed over which devices (the rules of `cost/gradients.py`).
#pragma once

#include "cost/placed_stages.h"
#include "cost/problem_arrays.h"
#include "cost/stage_bitsets.h"

namespace drlpp {

class StageParameters {
 public:
  // Finds the parameters and buffers of the stages, and those that stages share.
  void find(const ProblemArrays& a, const AssignmentView& assignment);

  // Writes `resident_bytes`, `gradient_bytes` and `optimizer_s`; copies on one device are one.
  void place(const ProblemArrays& a, const AssignmentView& assignment, PlacedStages& out);

  // Writes the fields about all-reduces: those of replicated stages, then those of tied parameters.
  void reduce(const ProblemArrays& a, PlacedStages& out);

 private:
  void share_copies(const ProblemArrays& a, PlacedStages& out);
  // Whether a set of stages, or stage s alone for -1 - s, has a stage.
  bool has(Int tied, Int stage) const { return tied < 0 ? stage == -1 - tied : tied_sets_.has(tied, stage); }
  // What a device of type k holds of the trained parameters of a set of stages, or of those that stage s alone reads.
  double held(Int tied, Int k) const { return tied < 0 ? own_[-1 - tied] : tied_trained_[tied * types_ + k]; }
  void add_group(const ProblemArrays& a, Int tied, PlacedStages& out);

  Int types_ = 0;
  Ints type_;            // [S] device type of each stage
  Reals trained_, fixed_;  // [S] what each stage reads
  StageSets tied_sets_;  // sets of two or more stages that share some
  Reals tied_trained_, tied_fixed_;  // [sets, num_device_types] the bytes of these
  Ints tied_order_;      // in order of their lists
  Ints holder_;
  Reals share_, copies_, held_fixed_, fixed_copies_, own_;
  Ints count_, on_device_, on_host_, group_tied_, fill_;
};

}  // namespace drlpp
