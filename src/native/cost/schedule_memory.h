// Peak memory of a schedule, and the part of it that is buffers of messages. The rules stand in
// `cost/schedule_memory.py`.
#pragma once

#include "cost/flat_schedule.h"
#include "cost/placed_stages.h"

namespace drlpp {

// Actions ahead of the current one whose receives are posted: `plan.action.LOOKAHEAD`.
constexpr Int LOOKAHEAD = 2;
// Gradients of a stage that were returned to other devices and are still kept.
constexpr Int RETURNS_KEPT = 2;

// Bytes of the messages of a micro-batch, by slot.
struct MessageMemory {
  Reals before_forward;   // [L] received from other devices before F
  Reals before_backward;  // [L] and before B (or I)
  Reals returned;         // [L] gradients returned to them after B (or I)
  Reals shared;           // [L] received by F from stages of the device that hold them until the gradient is back

  void measure(const PlacedStages& p);
};

// Measures the peaks of orders; keeps its work space.
class PeakMemory {
 public:
  // Writes the [U] peak bytes of the used devices.
  void measure(const PlacedStages& p, const MessageMemory& messages, const FlatSchedule& flat, Reals& peak);

 private:
  void follow_device(const PlacedStages& p, const MessageMemory& messages, const FlatSchedule& flat, Int d, double& peak);

  Ints kept_;    // [L] returned gradients that are not known to have been read
  Reals read_;   // [N] bytes from other devices that an action reads
};

}  // namespace drlpp
