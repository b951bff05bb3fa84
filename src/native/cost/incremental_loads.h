// The steady-state objective, incrementally: what moving one op to another stage does to the most loaded device.
//
// The numbers are those of `device_loads`. With x[o] the stage of op o, the load of device u is
//
//     load[u] = sum over slots i of u, ops o in the stage of i:  op_s[o, i]
//             + sum over slots i of u:                            what two passes take besides their ops
//             + sum over values v that leave their stage:        bytes[v] / bandwidth, once per pair of devices
//             + sum over messages (values with one source stage and one set of receivers): the latency, likewise
//             + sum over all-reduces:                            seconds / M
//
// A move changes the terms of the op, of the values that it makes and reads, and of its parameters; everything else
// stays. Messages are counted in a hash table, since their latency is paid once for all their values.
//
// Left out: memory. The placement and the recomputation flags are fixed; a stage may become empty.
#pragma once

#include <cstdint>
#include <vector>

#include "cost/placed_stages.h"
#include "cost/problem_arrays.h"

namespace drlpp {

class IncrementalLoads {
 public:
  // Moves after which the loads are summed anew.
  static constexpr Int REFRESH_AFTER = 10'000;

  // The loads of an assignment that is legal. A value needs one producer and one transfer time.
  IncrementalLoads(const ProblemArrays& a, const AssignmentView& assignment);

  const Ints& labels() const { return labels_; }
  Int num_ops() const { return size_of(labels_); }
  Int num_stages() const { return size_of(own_bytes_); }

  // The largest load of a device.
  double bottleneck_s() const;
  // The load of device u.
  double load_s(Int u) const { return load_[u] + tied_load_[u]; }
  Int num_devices() const { return size_of(load_); }

  // Moves an op to a stage.
  void move(Int op, Int stage);
  // The bottleneck if an op were in a stage; all loads are as before afterwards, to the last bit.
  double cost_of_move(Int op, Int stage);
  // Sums everything anew from the labels; after many moves, so that rounding errors do not grow.
  void refresh();
  Int moves_since_refresh() const { return moves_; }
  void refresh_when_due() {
    if (moves_ >= REFRESH_AFTER) refresh();
  }

 private:
  // A tensor in a phase: the op that makes it, its bytes, seconds or -1.
  struct Value {
    Int source = -1;
    double bytes = 0.0, given_s = -1.0;
    bool backward = false;
  };
  struct Use {
    Int value, grad;
  };

  void list_values(const ProblemArrays& a);
  void list_params(const ProblemArrays& a);
  bool is_first_use(Int op, Int i) const;
  void add_compute(Int op, Int stage, double sign);
  void add_value(Int v, double sign);
  void add_values_of(Int op, double sign);
  void add_message(Int stage, bool grad, const Value& value, bool with_latency, double sign);
  Int message_entry(std::uint64_t key);
  void move_parameters(Int op, Int old, Int stage);
  double held(Int param, Int stage) const { return trained_bytes_[type_[stage]][param]; }
  Int only_reader(Int param) const;
  void reduce_own(Int stage, double sign);
  void reduce_tied();
  bool same_readers(Int p, Int q) const;
  void reduce(double num_bytes, double sign, Reals& load);

  PlacedStages placed_;
  Ints labels_;
  Reals load_, tied_load_;  // [U]; the second is the share of all-reduces of parameters that several stages read
  Matrix op_s_;             // [N, L] seconds that an op adds to the device of a slot
  Reals besides_s_;         // [L] seconds of two passes besides their ops, also of a stage that became empty
  std::vector<Value> values_;
  Ints users_, grad_users_;  // [V, S] edges that read a value, by stage; those with a gradient
  Ints out_off_, out_value_, in_off_;
  std::vector<Use> in_;
  Ints param_off_, param_;
  Matrix trained_bytes_;  // [num_device_types, P]
  Ints type_;           // [S] device type of each stage
  Ints readers_;     // [P, S]
  Reals own_bytes_;  // [S] trained parameters that only this stage reads
  Ints shared_;      // trained parameters that several ops read
  std::vector<bool> is_shared_;
  std::vector<std::uint64_t> keys_, mark_;  // a hash table of messages, and random words
  Ints counts_;
  Ints device_stamp_, receivers_, members_, together_;
  Reals saved_;
  Int stamp_ = 0, entries_ = 0, moves_ = 0;
};

}  // namespace drlpp
