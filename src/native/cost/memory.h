// What parameters cost: the only compiled place of this price. `cost/stage_costs.py` and `cost/gradients.py` have it in
// Python.
#pragma once

#include "border/view.h"

namespace drlpp {

// Bytes of parameters, buffers, gradients and optimizer state. `resident_factor`: resident bytes per trained byte;
// `fixed_bytes`: of frozen parameters and buffers.
inline double resident_bytes(double trained_bytes, double resident_factor, double fixed_bytes) {
  return trained_bytes * resident_factor + fixed_bytes;
}

// What a device of n does not hold of `num_bytes` that they divide.
inline double spared_bytes(double num_bytes, Int n) { return num_bytes * (1.0 - 1.0 / static_cast<double>(n)); }

// Seconds of the optimizer step. `optimizer_s`: seconds of a device per trained byte.
inline double optimizer_step_s(double trained_bytes, double optimizer_s) { return trained_bytes * optimizer_s; }

// The part of what a device's stages read that is no second copy of what they share.
inline double share_of_read(double read_bytes, double copied_bytes) {
  return copied_bytes > 0.0 ? 1.0 - copied_bytes / read_bytes : 1.0;
}

// Trained parameters that only one stage reads: what the tied ones leave of all that it reads, without rounding errors.
inline double own_bytes(double left_bytes, double trained_bytes) {
  return left_bytes < 1e-9 * trained_bytes ? 0.0 : left_bytes;
}

}  // namespace drlpp
