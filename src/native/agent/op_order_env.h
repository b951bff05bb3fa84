// The partitioner's walk through the ops as an environment; see `op_order_env.py`.
#pragma once

#include "agent/tensor_graph.h"
#include "border/owned.h"

namespace drlpp {

// B walks on one problem.
struct WalkSetting {
  Reals share;               // [n] part of the work
  Table<const double> ends;  // [B, K] part of the work, accumulated, at which each slot is expected to be full
  Ints num_slots;            // [B]
  double mean_live_bytes = 0.0;
  Int width = 0;  // ready ops that a decision chooses from

  template <class Visitor>
  void visit(Visitor& field) {
    field("share", share);
    field("ends", ends);
    field("num_slots", num_slots);
    field("mean_live_bytes", mean_live_bytes);
    field("width", width);
  }
};

// What is known of a ready op; in this order for the network.
struct CandidateFeatures {
  double follows;      // 1: it reads the op before
  double waited;       // steps since it became ready, log
  double live_change;  // live bytes that it adds, relative to the mean
  double share;        // of the work, log
  double is_first;     // 1: no ready op comes before it in the graph's order
  double distance;     // from that one
  double overfills;    // 1: it does not fit the slot that is filled
};

// What is known of a walk; in this order for the network.
struct StateFeatures {
  double done;       // part of the work
  double slot;       // that is filled, of all
  double left;       // of that slot
  double width;      // of that slot, log
  double num_slots;  // log
  double live_log, num_ready, live;
};

constexpr Int NUM_CANDIDATE_FEATURES = sizeof(CandidateFeatures) / sizeof(double);
constexpr Int NUM_STATE_FEATURES = sizeof(StateFeatures) / sizeof(double);

// What the next decision is made on.
struct Observation {
  OwnedTable<Int> candidates;  // [B, W] ops, 0 where masked
  OwnedCube<double> features;  // [B, W, NUM_CANDIDATE_FEATURES]
  OwnedTable<char> mask;       // [B, W]
  OwnedTable<double> state;    // [B, NUM_STATE_FEATURES]
};

class OpOrderWalks {
 public:
  OpOrderWalks(TensorGraph graph, WalkSetting setting);

  Int num_walks() const { return size_of(walks_); }
  Int num_ops() const { return graph_.num_ops(); }
  // [B] bytes that the walks' next cut crosses.
  Reals live_bytes() const;
  Observation observe() const;
  // Does the chosen ready ops, [B]; throws std::invalid_argument if one is not ready.
  void step(View<const Int> ops);

 private:
  struct Walk {
    Ints ready;    // ops, the one that became ready last is the last one
    Ints waiting;  // [n] predecessors that are not done
    Ints since;    // [n] step at which each op became ready
    Ints pending;  // [Q] ops of each tensor that are not done
    double live_bytes = 0.0, done = 0.0;
    Int last = -1;  // op
  };

  Int slot_of(Int b) const;
  CandidateFeatures candidate(Int b, Int slot, Int op, Int smallest) const;
  StateFeatures state(Int b, Int slot) const;
  void step(Walk& walk, Int op);

  TensorGraph graph_;
  WalkSetting setting_;
  OwnedTable<double> ends_;
  std::vector<Walk> walks_;
  Int step_ = 0;
};

}  // namespace drlpp
