// Simulated annealing over the slot of every op; see `stage_annealing.py`.
#pragma once

#include "cost/op_amounts.h"

namespace drlpp {

// L sets of devices in pipeline order; see `Slots`.
struct Slots {
  Table<const double> op_s;                    // [L, N]
  Table<const double> send, receive, latency;  // [L, L]
  View<const double> sync_s, sync_s_per_byte;  // [L]
  View<const double> memory_bytes, in_flight, resident_factor;  // [L]

  Int size() const { return op_s.rows; }

  template <class Visitor>
  void visit(Visitor& field) {
    field("op_s", op_s);
    field("send", send);
    field("receive", receive);
    field("latency", latency);
    field("sync_s", sync_s);
    field("sync_s_per_byte", sync_s_per_byte);
    field("memory_bytes", memory_bytes);
    field("in_flight", in_flight);
    field("resident_factor", resident_factor);
  }

  void check() const;
};

// How long and how hot; see `Cooling`.
struct Cooling {
  Int moves = 0;
  double hot = 0.0, cold = 0.0;  // first and last temperature, relative to the energy
  Int seed = 0;

  // Temperature of a move.
  double temperature(Int move) const;

  template <class Visitor>
  void visit(Visitor& field) {
    field("moves", moves);
    field("hot", hot);
    field("cold", cold);
    field("seed", seed);
  }
};

// What the search may do, and what memory costs.
struct StageRules {
  bool free = false;  // any op may be in any slot

  template <class Visitor>
  void visit(Visitor& field) {
    field("free", free);
  }
};

struct AnnealedLabels {
  Ints labels;          // [N] the best ones
  double load_s = 0.0;  // their energy, about the largest load

  template <class Visitor>
  void visit(Visitor& field) {
    field("labels", labels);
    field("load_s", load_s);
  }
};

// Anneals from `labels` [N].
AnnealedLabels anneal_stages(const OpAmounts& ops, const Slots& slots, Ints labels, const Cooling& cooling,
                             const StageRules& rules);

}  // namespace drlpp
