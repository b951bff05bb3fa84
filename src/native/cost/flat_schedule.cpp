#include "cost/flat_schedule.h"

#include "border/checks.h"

namespace drlpp {

void FlatSchedule::check(const PlacedStages& p) const {
  check_offsets("offset", offset, p.num_devices(), num_actions());
  check_length("kind", size_of(kind), num_actions());
  check_length("microbatch", size_of(microbatch), num_actions());
  check_range("stage", stage, 0, p.num_stages());
  check_range("kind", kind, 0, NUM_ACTIONS);
  check_range("microbatch", microbatch, 0, p.num_microbatches);
  for (Int d = 0; d < p.num_devices(); ++d) {
    for (Int i = offset[d]; i < offset[d + 1]; ++i) {
      if (p.device(stage[i], microbatch[i]) != d) {
        throw std::invalid_argument("the schedule lists stage " + std::to_string(stage[i]) + ", micro-batch " +
                                    std::to_string(microbatch[i]) + " on another device than its own");
      }
    }
  }
}

}  // namespace drlpp
