// What ops hold, and the values between them; see `cost/op_amounts.py`, which says what each field is.
#pragma once

#include "border/view.h"

namespace drlpp {

// N ops, V values.
struct OpAmounts {
  View<const double> param_bytes, fixed_bytes, saved_bytes;  // [N]
  View<const Int> before_ptr, before;           // [N + 1], flat: predecessors of each op
  View<const Int> after_ptr, after;             // [N + 1], flat: successors of each op
  View<const Int> value_src;                    // [V]
  View<const double> value_amount;              // [V]
  View<const double> value_copies;              // [V]
  View<const Int> consumer_ptr, consumer_op;    // [V + 1], flat
  View<const Int> touch_ptr, touch_value;       // [N + 1], flat
  View<const Int> produces;                     // [N]
  bool timed = false;

  Int num_ops() const { return param_bytes.size(); }
  Int num_values() const { return value_src.size(); }
  Int num_consumers(Int v) const { return consumer_ptr[v + 1] - consumer_ptr[v]; }
  View<const Int> consumers(Int v) const { return consumer_op.part(consumer_ptr[v], consumer_ptr[v + 1]); }
  View<const Int> predecessors(Int op) const { return before.part(before_ptr[op], before_ptr[op + 1]); }
  View<const Int> successors(Int op) const { return after.part(after_ptr[op], after_ptr[op + 1]); }
  // Values that an op produces or consumes.
  View<const Int> touched(Int op) const { return touch_value.part(touch_ptr[op], touch_ptr[op + 1]); }

  template <class Visitor>
  void visit(Visitor& field) {
    field("param_bytes", param_bytes);
    field("fixed_bytes", fixed_bytes);
    field("saved_bytes", saved_bytes);
    field("before_ptr", before_ptr);
    field("before", before);
    field("after_ptr", after_ptr);
    field("after", after);
    field("value_src", value_src);
    field("value_amount", value_amount);
    field("value_copies", value_copies);
    field("consumer_ptr", consumer_ptr);
    field("consumer_op", consumer_op);
    field("touch_ptr", touch_ptr);
    field("touch_value", touch_value);
    field("produces", produces);
    field("timed", timed);
  }

  // Throws std::invalid_argument where sizes or indices do not agree.
  void check() const;
};

}  // namespace drlpp
