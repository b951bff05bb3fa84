// One level of PipeDream's hierarchical dynamic program; see `pipedream/planner.py`.
#pragma once

#include "border/owned.h"
#include "border/view.h"

namespace drlpp {

// The program of one level: P states of the model, the machines of the level, and what is inside one of them.
struct PipeDreamLevel {
  Table<const double> stage_s;        // [P, P] seconds of a stage on one machine
  Table<const double> sync_bytes;     // [P, P] bytes of a stage's gradients, times the part that is charged
  View<const double> boundary_bytes;  // [P] what crosses the cut behind a state
  Table<const bool> contained;        // [P, P] the first state is a part of the second
  Int machines = 0;                   // of the level
  double bandwidth = 0.0;             // between them
  Int machines_inside = 0;            // machines of the level below in one of them
  Int num_starts = 0;                 // states that a stretch may begin at
  View<const Int> replica_options;    // machines that a last stage may take
  bool replicate = false;             // a stage may run on several machines

  Int num_states() const { return boundary_bytes.size(); }

  template <class Visitor>
  void visit(Visitor& field) {
    field("stage_s", stage_s);
    field("sync_bytes", sync_bytes);
    field("boundary_bytes", boundary_bytes);
    field("contained", contained);
    field("machines", machines);
    field("bandwidth", bandwidth);
    field("machines_inside", machines_inside);
    field("num_starts", num_starts);
    field("replica_options", replica_options);
    field("replicate", replicate);
  }

  void check() const;
};

// Of the stretch from a start to a state on m machines, at [start, state, m - 1].
struct LevelTable {
  OwnedCube<double> best_s;  // seconds of its slowest stage
  OwnedCube<Int> split;      // state before its last stage; -1: it is one stage
  OwnedCube<Int> replicas;   // machines of its last stage
};

LevelTable fill_level(const PipeDreamLevel& level);

}  // namespace drlpp
