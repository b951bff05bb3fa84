// The dynamic program over splits and device states; see `split_program.py`.
#pragma once

#include <cstdint>

#include "border/view.h"

namespace drlpp {

// States of the model and the costs between them: P of them, T device types; see `SplitModel`.
struct SplitModel {
  View<const double> work_s;                    // [P]
  Table<const double> total_s, forward_s;       // [T, P]
  View<const double> param_bytes, fixed_bytes, saved_bytes;  // [P]
  Table<const double> received, sent;           // [P, P]

  Int num_states() const { return work_s.size(); }

  template <class Visitor>
  void visit(Visitor& field) {
    field("work_s", work_s);
    field("total_s", total_s);
    field("forward_s", forward_s);
    field("param_bytes", param_bytes);
    field("fixed_bytes", fixed_bytes);
    field("saved_bytes", saved_bytes);
    field("received", received);
    field("sent", sent);
  }

  void check() const;
};

// States of the devices and the steps between them: Q states, E steps; see `DeviceStates`.
struct DeviceStates {
  View<const double> capacity;                     // [Q]
  View<const Int> step_ptr;                        // [Q + 1]
  View<const Int> rest, replicas, type_index;      // [E]
  View<const double> speed, share;                 // [E]
  View<const double> seconds_in, seconds_out;      // [E]
  View<const double> latency_in_s, latency_out_s;  // [E]
  View<const double> sync_s, sync_s_per_byte;      // [E]
  View<const double> memory_bytes, resident_factor;  // [E]
  View<const Int> in_flight;                       // [E]
  View<const bool> recompute;                      // [E]

  Int num_states() const { return capacity.size(); }
  Int num_steps() const { return rest.size(); }

  template <class Visitor>
  void visit(Visitor& field) {
    field("capacity", capacity);
    field("step_ptr", step_ptr);
    field("rest", rest);
    field("replicas", replicas);
    field("type_index", type_index);
    field("speed", speed);
    field("share", share);
    field("seconds_in", seconds_in);
    field("seconds_out", seconds_out);
    field("latency_in_s", latency_in_s);
    field("latency_out_s", latency_out_s);
    field("sync_s", sync_s);
    field("sync_s_per_byte", sync_s_per_byte);
    field("memory_bytes", memory_bytes);
    field("resident_factor", resident_factor);
    field("in_flight", in_flight);
    field("recompute", recompute);
  }

  void check() const;
};

// What a solution must keep to; see `SplitLimits`.
struct SplitLimits {
  double load_s = 0.0;
  double memory_share = 0.0;
  bool as_sum = false;

  template <class Visitor>
  void visit(Visitor& field) {
    field("load_s", load_s);
    field("memory_share", memory_share);
    field("as_sum", as_sum);
  }
};

// The table of the program, [Q, P]: of the ops after model state i on the devices of device state q.
struct SplitTable {
  Table<double> value_s;           // the best value; inf if there is no solution
  Table<std::int32_t> next_state;  // model state behind the first stage
  Table<std::int32_t> step;        // that the first stage takes

  template <class Visitor>
  void visit(Visitor& field) {
    field("value_s", value_s);
    field("next_state", next_state);
    field("step", step);
  }
};

// Fills the rows of device states from `start` to before `stop`; those before are filled.
void fill_rows(const SplitTable& table, const SplitModel& model, const DeviceStates& devices, const SplitLimits& limits,
               Int start, Int stop);

}  // namespace drlpp
