// What Python sees of the schedules.
#include "border/bindings.h"
#include "border/checks.h"
#include "border/fields.h"
#include "cost/schedule_memory.h"
#include "schedules/replay.h"
#include "schedules/selection.h"

namespace drlpp {

namespace {

// [NUM_SCHEDULES] whether each schedule applies.
py::list applicable(py::handle placed) {
  const auto p = from_python<PlacedStages>(placed);
  py::list out;
  for (Int kind = 0; kind < NUM_SCHEDULES; ++kind) out.append(applies(p, static_cast<ScheduleKind>(kind)));
  return out;
}

py::dict select_schedule(py::handle placed, py::handle wanted, double give_up_s) {
  const auto p = from_python<PlacedStages>(placed);
  View<const bool> flags;
  read("wanted", wanted, flags);
  check_length("wanted", flags.size(), NUM_SCHEDULES);
  Selection::Wanted chosen;
  std::copy(flags.begin(), flags.end(), chosen.begin());
  return to_python(Selection().choose(p, chosen, give_up_s));
}

py::dict work_bound(py::handle placed, bool split) {
  const auto p = from_python<PlacedStages>(placed);
  WorkBound bound;
  Selection().measure_bound(p, split, bound);
  return to_python(bound);
}

py::dict stage_depths(py::handle placed) {
  Depths depths;
  depths.measure(from_python<PlacedStages>(placed));
  return to_python(depths);
}

// When the last action ends, whether the slack held a micro-batch back, and the fields of the order.
py::tuple list_order(py::handle placed, double slack, bool split, double give_up_s) {
  const auto p = from_python<PlacedStages>(placed);
  Depths depths;
  MessageMemory messages;
  WorkBound bound;
  depths.measure(p);
  messages.measure(p);
  Selection().measure_bound(p, split, bound);
  ListScheduler lister;
  FlatSchedule order;
  const double last_s = lister.run(p, depths, messages, {slack, split, &bound.work_s, &bound.after_s, give_up_s}, order);
  return py::make_tuple(last_s, lister.limited(), to_python(order));
}

// The fields of the `FlatSchedule` of one kind of schedule, which must apply.
py::dict make_order(py::handle placed, Int kind) {
  const auto p = from_python<PlacedStages>(placed);
  if (kind < 0 || kind >= NUM_SCHEDULES || !applies(p, static_cast<ScheduleKind>(kind))) {
    throw std::invalid_argument("schedule " + std::to_string(kind) + " does not apply to this placement");
  }
  Selection::Wanted wanted{};
  wanted[kind] = true;
  Selection selection;
  {
    py::gil_scoped_release unlocked;
    selection.choose(p, wanted, std::numeric_limits<double>::infinity());
  }
  return to_python(selection.order());
}

struct Replayed {
  Int num_done = 0;  // actions that ended; less than there are if the schedule deadlocks
  double iteration_time_s = 0.0;
  Reals peak_memory_bytes;  // [U]

  template <class Visitor>
  void visit(Visitor& field) {
    field("num_done", num_done);
    field("iteration_time_s", iteration_time_s);
    field("peak_memory_bytes", peak_memory_bytes);
  }
};

// Replays an order; `times` over for measurements of the speed.
py::dict replay(py::handle placed, py::handle order, Int times) {
  const auto p = from_python<PlacedStages>(placed);
  const auto flat = from_python<FlatSchedule>(order);
  flat.check(p);
  Replayed out;
  {
    py::gil_scoped_release unlocked;
    Replay run;
    MessageMemory messages;
    PeakMemory memory;
    for (Int i = 0; i < times; ++i) {
      out.iteration_time_s = run.run(p, flat);
      messages.measure(p);
      memory.measure(p, messages, flat, out.peak_memory_bytes);
    }
    out.num_done = run.num_done();
  }
  return to_python(out);
}

}  // namespace

void bind_schedules(py::module_& module) {
  module.attr("LOOKAHEAD") = LOOKAHEAD;
  module.attr("RETURNS_KEPT") = RETURNS_KEPT;
  module.attr("SPLIT_BACKWARD_COST") = SPLIT_BACKWARD_COST;
  py::list splits;
  for (Int kind = 0; kind < NUM_SCHEDULES; ++kind) splits.append(splits_backward(static_cast<ScheduleKind>(kind)));
  module.attr("SPLITS_BACKWARD") = py::tuple(splits);
  py::list slacks;
  for (double slack : SLACKS) slacks.append(slack);
  module.attr("SLACKS") = py::tuple(slacks);
  module.def("select_schedule", &select_schedule, py::arg("placed"), py::arg("wanted"), py::arg("give_up_s"));
  module.def("work_bound", &work_bound, py::arg("placed"), py::arg("split"));
  module.def("stage_depths", &stage_depths, py::arg("placed"));
  module.def("list_order", &list_order, py::arg("placed"), py::arg("slack"), py::arg("split"), py::arg("give_up_s"));
  module.def("applicable", &applicable, py::arg("placed"));
  module.def("make_order", &make_order, py::arg("placed"), py::arg("kind"));
  module.def("replay", &replay, py::arg("placed"), py::arg("order"), py::arg("times") = 1);
}

}  // namespace drlpp
