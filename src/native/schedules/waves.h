// GPipe, 1F1B and ZB-H1 for any DAG of stages, as wave schedules.
//
// On a chain of p stages with one device each GPipe and 1F1B are the schedules of Huang et al. (NeurIPS 2019) and of
// PipeDream-Flush (Narayanan et al., ICML 2021): stage i starts p - i micro-batches before its first backward pass. On
// a DAG the number is the longest path from the stage to a sink, where a stage of R replicas counts R times (as in
// PipeDream, SOSP 2019: that many micro-batches are in flight to keep every device busy). A replica with an unequal
// share of the micro-batches counts as often as micro-batches of its stage go by while it has one. ZB-H1 (Qi et al., "Zero
// bubble pipeline parallelism", ICLR 2024; torch: ZB1P) has the memory of 1F1B and a third of its bubble where F, I and
// W are equal.
#pragma once

#include "schedules/orders.h"

namespace drlpp {

// Longest paths in the DAG of stages, counted in devices (a stage of R replicas counts R). They go over all messages:
// those of the forward pass from lower to higher stages, those of the backward pass from higher to lower.
struct Depths {
  Ints from_source;  // [S] devices before the stage
  Ints to_sink;      // [L] devices from the stage of the slot, itself included, to the end

  void measure(const PlacedStages& p);

  template <class Visitor>
  void visit(Visitor& field) {
    field("from_source", from_source);
    field("to_sink", to_sink);
  }

 private:
  Ints longest_;  // [S] of the slots of a stage
};

// All forward passes, then all backward passes; every micro-batch starts as early as it can.
void gpipe(const PlacedStages& p, const Depths& depths, Wave& wave);

// One forward, one backward: as many micro-batches in flight as there are devices from the stage to the end. With an
// `eagerness` of 2 instead of 1 there are about 1.5 times as many, which hides the latency of transfers (the eager 1F1B
// of Zhuang et al., "On optimizing the communication of model parallelism", MLSys 2023).
void one_f_one_b(const Depths& depths, Int eagerness, Wave& wave);

// 1F1B in which W comes as many micro-batches after I as there are devices before the stage.
void zero_bubble(const Depths& depths, Wave& wave);

}  // namespace drlpp
