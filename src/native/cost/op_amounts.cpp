#include "cost/op_amounts.h"

#include "border/checks.h"

namespace drlpp {

void OpAmounts::check() const {
  check_length("fixed_bytes", fixed_bytes.size(), num_ops());
  check_length("saved_bytes", saved_bytes.size(), num_ops());
  check_length("produces", produces.size(), num_ops());
  check_offsets("before_ptr", before_ptr, num_ops(), before.size());
  check_offsets("after_ptr", after_ptr, num_ops(), after.size());
  check_range("before", before, 0, num_ops());
  check_range("after", after, 0, num_ops());
  check_length("value_amount", value_amount.size(), num_values());
  check_length("value_copies", value_copies.size(), num_values());
  check_range("value_src", value_src, 0, num_ops());
  check_offsets("consumer_ptr", consumer_ptr, num_values(), consumer_op.size());
  check_range("consumer_op", consumer_op, 0, num_ops());
  check_offsets("touch_ptr", touch_ptr, num_ops(), touch_value.size());
  check_range("touch_value", touch_value, 0, num_values());
}

}  // namespace drlpp
