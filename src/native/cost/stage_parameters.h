// The parameters that the stages of a partition read: what devices hold of them, and which gradients are summed over
// which devices (the rules of `cost/gradients.py`).
#pragma once

#include "cost/placed_stages.h"
#include "cost/problem_arrays.h"
#include "cost/stage_bitsets.h"

namespace drlpp {

class StageParameters {
 public:
  // Finds the parameters of the stages, and those that stages share.
  void find(const ProblemArrays& a, const AssignmentView& assignment);

  // Writes `resident_bytes`, `gradient_bytes` and `optimizer_s`; copies of a parameter on one device are one.
  void place(const ProblemArrays& a, const AssignmentView& assignment, PlacedStages& out);

  // Writes the fields about all-reduces: those of replicated stages, then those of tied parameters.
  void reduce(PlacedStages& out);

 private:
  void share_copies(PlacedStages& out);
  // Whether a set of stages, or stage s alone for -1 - s, has a stage.
  bool has(Int tied, Int stage) const { return tied < 0 ? stage == -1 - tied : tied_sets_.has(tied, stage); }
  void add_group(Int tied, double num_bytes, PlacedStages& out);

  Reals bytes_;          // [S] parameters that each stage reads
  StageSets tied_sets_;  // sets of two or more stages that share parameters
  Reals tied_bytes_;     // their bytes
  Ints tied_order_;      // in order of their lists
  Ints holder_;
  Reals read_, copies_, own_;
  Ints count_, on_device_, on_host_, group_tied_, fill_;
};

}  // namespace drlpp
