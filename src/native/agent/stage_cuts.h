// Where to cut an order of the ops into the stages of given slots: costs, and the best cuts; see `stage_cuts.py`.
#pragma once

#include "agent/tensor_graph.h"
#include "border/owned.h"

namespace drlpp {

// The slots of B episodes, padded to K; see `SlotArrays`. All tables are [B, K].
struct SlotArrays {
  View<const Int> num_slots;  // [B]
  Table<const double> rounds, memory_bytes, spared, besides_s, reduce_s, reduce_s_per_byte, in_flight;
  Table<const double> into_s, port_into_s, mean_into_s, latency_s, out_s, port_out_s;
  Int num_microbatches = 0;
  bool steady = false;

  Int num_episodes() const { return num_slots.size(); }
  Int width() const { return rounds.columns; }

  template <class Visitor>
  void visit(Visitor& field) {
    field("num_slots", num_slots);
    field("rounds", rounds);
    field("memory_bytes", memory_bytes);
    field("spared", spared);
    field("besides_s", besides_s);
    field("reduce_s", reduce_s);
    field("reduce_s_per_byte", reduce_s_per_byte);
    field("in_flight", in_flight);
    field("into_s", into_s);
    field("port_into_s", port_into_s);
    field("mean_into_s", mean_into_s);
    field("latency_s", latency_s);
    field("out_s", out_s);
    field("port_out_s", port_out_s);
    field("num_microbatches", num_microbatches);
    field("steady", steady);
  }

  void check() const;
};

// Prefix sums along the orders of B episodes of n ops; see `Prefixes`.
struct Prefixes {
  Table<const Int> orders;                                     // [B, n]
  Cube<const double> time, forward, weights, resident, saved;  // [B, K, n + 1]
  Table<const double> params;                                  // [B, n + 1]
  View<const Int> crossing;                                    // [B]
  Cube<const double> into, out;                                // [U, n + 1, n + 1]

  Int num_ops() const { return orders.columns; }

  template <class Visitor>
  void visit(Visitor& field) {
    field("orders", orders);
    field("time", time);
    field("forward", forward);
    field("weights", weights);
    field("params", params);
    field("resident", resident);
    field("saved", saved);
    field("crossing", crossing);
    field("into", into);
    field("out", out);
  }
};

// Throws std::invalid_argument where the sums do not fit the slots.
void check_sums(const Prefixes& sums, const SlotArrays& slots);

// What a stage costs.
struct StageCost {
  double pace_s = 0.0;             // of its rounds after the first; in the steady state its load per micro-batch
  double pass_s = 0.0;             // one micro-batch forth and back, with the transfer into the stage
  double waited_s = 0.0;           // the part of the pass that the other stages wait for
  double reduce_s = 0.0;           // all-reduce of the gradients
  double busy_into_s = 0.0;        // what is busiest on the way into the stage, per micro-batch
  double memory = 0.0;             // part of the memory, with as many micro-batches in flight as keep the stage busy
  double memory_recomputed = 0.0;  // the same if the forward pass runs again
  double memory_of_one = 0.0;      // part of the memory with a single micro-batch in flight
  double speedup = 1.0;            // by recomputation, as far as memory allows; inf or 0: only one of the two ways fits

  // Logarithm of the speed-up; 9 or -9 where only one way fits.
  double gain() const;

  template <class Visitor>
  void visit(Visitor& field) {
    field("pace_s", pace_s);
    field("pass_s", pass_s);
    field("waited_s", waited_s);
    field("reduce_s", reduce_s);
    field("busy_into_s", busy_into_s);
    field("memory", memory);
    field("memory_recomputed", memory_recomputed);
    field("memory_of_one", memory_of_one);
    double logarithm = gain();
    field("gain", logarithm);
  }
};

// One episode: its slots and its sums.
class Episode {
 public:
  Episode(const SlotArrays& slots, const Prefixes& sums, Int episode);

  Int num_slots() const { return num_slots_; }
  Int num_ops() const { return n_; }
  bool steady() const { return slots_.steady; }
  Int num_microbatches() const { return slots_.num_microbatches; }
  Int op(Int position) const { return order_[position]; }
  double rounds(Int s) const { return of_slot_[s].rounds; }
  double compute_s(Int s, Int i, Int j) const { return time(s)[j] - time(s)[i] + of_slot_[s].besides_s; }
  double forward_s(Int s, Int i, Int j) const { return forward(s)[j] - forward(s)[i]; }
  double weights_s(Int s, Int i, Int j) const { return weights(s)[j] - weights(s)[i]; }
  // Bytes that cross a cut at each position, [n + 1].
  View<const double> live_bytes() const { return {out(0), n_ + 1}; }

  // What the ops i to j - 1 cost in slot s, if a micro-batch takes `after_s` through the later stages and back.
  StageCost cost(Int s, Int i, Int j, double after_s, bool split) const;

 private:
  struct Cycles;
  // The numbers of one slot side by side, and its sums.
  struct OfSlot {
    double rounds, memory_bytes, spared, besides_s, reduce_s, reduce_s_per_byte, in_flight;
    double into_s, port_into_s, mean_into_s, latency_s, out_s, port_out_s;
    const double *time, *forward, *weights, *resident, *saved;
  };

  const double* time(Int s) const { return of_slot_[s].time; }
  const double* forward(Int s) const { return of_slot_[s].forward; }
  const double* weights(Int s) const { return of_slot_[s].weights; }
  const double* into(Int i) const { return into_ + i * (n_ + 1); }
  const double* out(Int i) const { return out_ + i * (n_ + 1); }

  const SlotArrays& slots_;
  Int n_, num_slots_;
  const Int* order_;
  const double *params_, *into_, *out_;
  std::vector<OfSlot> of_slot_;
};

// Cuts of an episode, [K + 1]: slot s runs the ops at positions cuts[s] to cuts[s + 1] - 1.
//
// Args:
//   places: cuts are tried at about so many positions, evenly spaced.
//   cuts: [K + 1] zeros; becomes the best cuts by the estimate.
void solve_cuts(const Episode& episode, bool split, Int places, Int* cuts);

// What the estimate says of given cuts.
struct Estimate {
  double pace_s = 0.0;   // the largest
  double value_s = 0.0;  // of the objective
};

// Args:
//   after_s: [K] becomes the seconds of a micro-batch through the later stages and back.
Estimate judge_cuts(const Episode& episode, const TensorGraph& graph, bool split, const Int* cuts, double* after_s);

// Cuts of B episodes and what the estimate says of them; see `Anchors`.
struct Anchors {
  Table<const Int> cuts;           // [B, K + 1]
  View<const bool> split;          // [B]
  Table<const double> after;       // [B, K]
  View<const double> pace, value;  // [B]

  template <class Visitor>
  void visit(Visitor& field) {
    field("cuts", cuts);
    field("split", split);
    field("after", after);
    field("pace", pace);
    field("value", value);
  }
};

// Throws std::invalid_argument where the anchors do not fit the slots and the number of ops.
void check_anchors(const Anchors& anchors, const SlotArrays& slots, Int num_ops);

// What is known of a choice for a cut; in this order for the network.
struct CutFeatures {
  double offset, distance, is_anchor;  // from the anchor
  double left_pace, right_pace;        // above the largest one, relative to the estimate
  double excess;                       // of both, with their passes
  double busy;                         // transfers over the cut
  double left_memory, right_memory;    // with one micro-batch in flight
  double live_bytes;                   // that cross it, log
  double cut;                          // its number, of all
};

// What is known of a stage's memory; in this order for the network.
struct MemoryFeatures {
  double memory, memory_recomputed;
  double repeated;  // part of the time that recomputation repeats
  double gain, memory_of_one;
};

constexpr Int NUM_CUT_FEATURES = sizeof(CutFeatures) / sizeof(double);
constexpr Int NUM_MEMORY_FEATURES = sizeof(MemoryFeatures) / sizeof(double);

struct CutChoices {
  OwnedCube<double> features;  // [B, O, NUM_CUT_FEATURES]
  OwnedTable<char> mask;       // [B, O]
};

// The choices for cut c, before slot c: positions at `offsets` [O] from the anchors' cut. `cuts`: those made so far.
CutChoices cut_choices(const SlotArrays& slots, const Prefixes& sums, const Anchors& anchors, Table<const Int> cuts,
                       Int c, View<const Int> offsets);

// [B, K, NUM_MEMORY_FEATURES] of the stages that are cut out.
OwnedCube<double> stage_memory(const SlotArrays& slots, const Prefixes& sums, View<const bool> split,
                               Table<const Int> cuts);

}  // namespace drlpp
