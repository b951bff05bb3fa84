// The messages between the stages of a partition, and the bytes of activations that each stage keeps: what
// `graph.stages.stage_graph` finds, on arrays and in the same order of sums.
#pragma once

#include "cost/placed_stages.h"
#include "cost/problem_arrays.h"
#include "cost/stage_bitsets.h"

namespace drlpp {

class StageMessages {
 public:
  // Finds the messages of a legal partition, and writes the fields of `out` about them.
  void find(const ProblemArrays& a, const AssignmentView& assignment, PlacedStages& out);

  // Some message carries its own time; some message does not.
  bool timed() const { return timed_; }
  bool uses_links() const { return uses_links_; }

  // Writes `held_bytes`, `again_bytes` and `remade_bytes`. Call it after `find`.
  void measure_activations(const ProblemArrays& a, const AssignmentView& assignment, PlacedStages& out);

 private:
  // A value that leaves its stage; its receivers are a row of `receivers_`.
  struct Sent {
    Int stage, value;
    Int grad;        // 1 if a gradient returns
    double given_s;  // or -1
    Int following;   // the next sent one of the same value, or -1
    Int flags;       // how messages of one stage and one set of receivers are ordered
  };

  // A tensor that an op of a stage saves, and the block that makes it.
  struct Saved {
    Int key;  // stage * num_tensors + tensor
    Int block;
  };

  void find_sent(const ProblemArrays& a, const AssignmentView& assignment);
  void sort_sent(const ProblemArrays& a);
  bool same_message(Int i, Int j) const;
  void open_message(const ProblemArrays& a, const Sent& sent, Int row, PlacedStages& out);
  void list_returns(PlacedStages& out);
  void list_block_tensors(const ProblemArrays& a, const AssignmentView& assignment);
  void measure_blocks(const ProblemArrays& a, const AssignmentView& assignment);
  void add_tensor(const ProblemArrays& a, const AssignmentView& assignment, Int tensor);

  std::vector<Sent> sent_;
  StageSets receivers_;
  Ints first_;  // [V] a sent value of each value, or -1
  Ints order_, fill_;
  bool timed_ = false, uses_links_ = false;
  Ints holder_, receiver_;           // [S] the last tensor that was counted
  Reals activation_, boundary_;      // [S] bytes kept, and received
  Ints stays_;
  std::vector<Saved> saved_;
  Reals block_inputs_, largest_block_;  // [S] where blocks are computed again
  Reals of_block_;
  std::vector<const double*> held_;  // [S] bytes of each tensor on the devices of a stage
  Ints type_;
};

}  // namespace drlpp
