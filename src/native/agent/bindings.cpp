// What Python sees of the agent's view of a problem and of its decisions.
#include "border/bindings.h"

#include <algorithm>

#include "agent/boundary_bytes.h"
#include "agent/fixed_orders.h"
#include "agent/op_order_env.h"
#include "agent/stage_cuts.h"
#include "border/checks.h"
#include "border/fields.h"
#include "border/owned_arrays.h"

namespace drlpp {

namespace {

// What `stage_cost` is asked.
struct StageQuestion {
  Int episode = 0, slot = 0;
  Int first = 0, last = 0;  // the stage has the ops at positions first to last - 1
  double after_s = 0.0;     // of a micro-batch through the later stages and back
  bool split = false;       // backward passes are split

  template <class Visitor>
  void visit(Visitor& field) {
    field("episode", episode);
    field("slot", slot);
    field("first", first);
    field("last", last);
    field("after_s", after_s);
    field("split", split);
  }
};

// Slots and sums that fit together.
struct Batch {
  SlotArrays slots;
  Prefixes sums;

  Batch(py::handle slot_arrays, py::handle prefixes)
      : slots(from_python<SlotArrays>(slot_arrays)), sums(from_python<Prefixes>(prefixes)) {
    check_sums(sums, slots);
  }
};

// Cuts of each episode that can be made.
Table<const Int> read_cuts(py::handle cuts, const Batch& batch) {
  Table<const Int> out;
  read("cuts", cuts, out);
  check_length("rows of cuts", out.rows, batch.slots.num_episodes());
  check_range("columns of cuts", Ints{out.columns}, batch.slots.width() + 1, out.columns + 1);
  check_range("cuts", View<const Int>(out.data, out.rows * out.columns), 0, batch.sums.num_ops() + 1);
  return out;
}

py::dict bytes_of_stretches(py::handle graph, py::handle orders) {
  const auto tensors = from_python<TensorGraph>(graph);
  Table<const Int> of_ops;
  read("orders", orders, of_ops);
  check_length("columns of orders", of_ops.columns, tensors.num_ops());
  const Int size = of_ops.columns + 1;
  OwnedCube<double> into(of_ops.rows, size, size, 0.0), out(of_ops.rows, size, size, 0.0);
  {
    py::gil_scoped_release unlocked;
    for (Int u = 0; u < of_ops.rows; ++u) {
      boundary_bytes(tensors, of_ops.row(u), {into.row(u, 0), size, size}, {out.row(u, 0), size, size});
    }
  }
  py::dict fields;
  fields["into"] = as_cube(std::move(into));
  fields["out"] = as_cube(std::move(out));
  return fields;
}

py::array_t<Int> order_by_live_bytes(py::handle graph, bool backwards) {
  auto tensors = from_python<TensorGraph>(graph);
  Ints order;
  {
    py::gil_scoped_release unlocked;
    order = narrow_order(backwards ? tensors.reversed() : tensors);
    if (backwards) std::reverse(order.begin(), order.end());
  }
  return as_array(std::move(order));
}

py::dict observe(const OpOrderWalks& walks) {
  Observation seen = walks.observe();
  py::dict fields;
  fields["candidates"] = as_table(std::move(seen.candidates));
  fields["features"] = as_cube(std::move(seen.features));
  fields["mask"] = as_flags(std::move(seen.mask));
  fields["state"] = as_table(std::move(seen.state));
  return fields;
}

py::array_t<Int> best_cuts(py::handle slots, py::handle sums, bool split, Int places) {
  const Batch batch(slots, sums);
  if (places < 1) throw py::value_error("places must be at least 1");
  OwnedTable<Int> cuts(batch.slots.num_episodes(), batch.slots.width() + 1, 0);
  {
    py::gil_scoped_release unlocked;
    for (Int b = 0; b < cuts.rows(); ++b) solve_cuts(Episode(batch.slots, batch.sums, b), split, places, cuts[b]);
  }
  return as_table(std::move(cuts));
}

py::dict estimates(py::handle slots, py::handle sums, py::handle graph, bool split, py::handle cuts) {
  const Batch batch(slots, sums);
  const auto tensors = from_python<TensorGraph>(graph);
  const auto given = read_cuts(cuts, batch);
  check_length("succ_ptr", size_of(tensors.succ_ptr), batch.sums.num_ops() + 1);
  OwnedTable<double> after(given.rows, batch.slots.width(), 0.0);
  Reals pace(given.rows), value(given.rows);
  {
    py::gil_scoped_release unlocked;
    for (Int b = 0; b < given.rows; ++b) {
      const Estimate found = judge_cuts(Episode(batch.slots, batch.sums, b), tensors, split, given[b], after[b]);
      pace[b] = found.pace_s;
      value[b] = found.value_s;
    }
  }
  py::dict fields;
  fields["after"] = as_table(std::move(after));
  fields["pace"] = as_array(std::move(pace));
  fields["value"] = as_array(std::move(value));
  return fields;
}

py::dict choices(py::handle slots, py::handle sums, py::handle anchors, py::handle cuts, Int cut, py::handle offsets) {
  const Batch batch(slots, sums);
  const auto best = from_python<Anchors>(anchors);
  check_anchors(best, batch.slots, batch.sums.num_ops());
  const auto made = read_cuts(cuts, batch);
  View<const Int> from_anchor;
  read("offsets", offsets, from_anchor);
  check_range("cut", Ints{cut}, 1, batch.slots.width() + 1);
  CutChoices found;
  {
    py::gil_scoped_release unlocked;
    found = cut_choices(batch.slots, batch.sums, best, made, cut, from_anchor);
  }
  py::dict fields;
  fields["features"] = as_cube(std::move(found.features));
  fields["mask"] = as_flags(std::move(found.mask));
  return fields;
}

py::array_t<double> memory_features(py::handle slots, py::handle sums, py::handle split, py::handle cuts) {
  const Batch batch(slots, sums);
  const auto given = read_cuts(cuts, batch);
  View<const bool> is_split;
  read("split", split, is_split);
  check_length("split", is_split.size(), given.rows);
  OwnedCube<double> features;
  {
    py::gil_scoped_release unlocked;
    features = stage_memory(batch.slots, batch.sums, is_split, given);
  }
  return as_cube(std::move(features));
}

py::dict cost_of_stage(py::handle slots, py::handle sums, py::handle question) {
  const Batch batch(slots, sums);
  const auto asked = from_python<StageQuestion>(question);
  check_range("episode", Ints{asked.episode}, 0, batch.slots.num_episodes());
  check_range("slot", Ints{asked.slot}, 0, batch.slots.width());
  check_range("first and last", Ints{asked.first, asked.last}, 0, batch.sums.num_ops() + 1);
  const Episode episode(batch.slots, batch.sums, asked.episode);
  return to_python(episode.cost(asked.slot, asked.first, asked.last, asked.after_s, asked.split));
}

}  // namespace

void bind_agent(py::module_& module) {
  module.attr("NUM_CANDIDATE_FEATURES") = NUM_CANDIDATE_FEATURES;
  module.attr("NUM_STATE_FEATURES") = NUM_STATE_FEATURES;
  module.attr("NUM_CUT_FEATURES") = NUM_CUT_FEATURES;
  module.attr("NUM_MEMORY_FEATURES") = NUM_MEMORY_FEATURES;
  module.def("boundary_bytes", &bytes_of_stretches, py::arg("graph"), py::arg("orders"));
  module.def("narrow_order", &order_by_live_bytes, py::arg("graph"), py::arg("backwards"));
  py::class_<OpOrderWalks>(module, "OpOrderWalks")
      .def(py::init([](py::handle graph, py::handle setting) {
             return new OpOrderWalks(from_python<TensorGraph>(graph), from_python<WalkSetting>(setting));
           }),
           py::arg("graph"), py::arg("setting"))
      .def_property_readonly("live_bytes", [](const OpOrderWalks& walks) { return as_array(walks.live_bytes()); })
      .def("observe", &observe)
      .def(
          "step",
          [](OpOrderWalks& walks, py::handle ops) {
            View<const Int> chosen;
            read("ops", ops, chosen);
            walks.step(chosen);
          },
          py::arg("ops"));
  module.def("solve_cuts", &best_cuts, py::arg("slots"), py::arg("sums"), py::arg("split"), py::arg("places"));
  module.def("judge_cuts", &estimates, py::arg("slots"), py::arg("sums"), py::arg("graph"), py::arg("split"),
             py::arg("cuts"));
  module.def("cut_choices", &choices, py::arg("slots"), py::arg("sums"), py::arg("anchors"), py::arg("cuts"),
             py::arg("cut"), py::arg("offsets"));
  module.def("stage_memory", &memory_features, py::arg("slots"), py::arg("sums"), py::arg("split"), py::arg("cuts"));
  module.def("stage_cost", &cost_of_stage, py::arg("slots"), py::arg("sums"), py::arg("question"));
}

}  // namespace drlpp
