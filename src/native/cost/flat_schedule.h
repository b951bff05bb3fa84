// The actions of a schedule as flat arrays: `schedules.FlatSchedule` in Python.
#pragma once

#include <cstdint>
#include <vector>

#include "cost/placed_stages.h"

namespace drlpp {

using Words = std::vector<std::int32_t>;

// Actions of U devices, one device after the other.
struct FlatSchedule {
  Ints offset;  // [U + 1]
  Words stage, kind, microbatch;  // [N]; kind is an `Action`

  Int num_actions() const { return size_of(stage); }

  void set(Int at, Int new_stage, Int new_kind, Int new_microbatch) {
    stage[at] = static_cast<std::int32_t>(new_stage);
    kind[at] = static_cast<std::int32_t>(new_kind);
    microbatch[at] = static_cast<std::int32_t>(new_microbatch);
  }

  template <class Visitor>
  void visit(Visitor& field) {
    field("offset", offset);
    field("stage", stage);
    field("kind", kind);
    field("microbatch", microbatch);
  }

  // Throws std::invalid_argument if the actions do not belong to these stages and devices.
  void check(const PlacedStages& p) const;
};

}  // namespace drlpp
