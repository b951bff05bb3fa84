// What Python sees of the prices.
#include "border/bindings.h"
#include "border/checks.h"
#include "border/fields.h"
#include "cost/collectives.h"
#include "cost/device_loads.h"
#include "cost/incremental_loads.h"
#include "cost/placement.h"

namespace drlpp {

namespace {

py::array_t<double> loads_of(py::handle placed) {
  const auto p = from_python<PlacedStages>(placed);
  Reals load;
  {
    py::gil_scoped_release unlocked;
    device_loads(p, load);
  }
  return as_array(std::move(load));
}

// The fields of `PlacedStages`.
py::dict place_assignment(py::handle arrays, py::handle packed) {
  const auto problem = from_python<ProblemArrays>(arrays);
  const auto assignments = from_python<PackedAssignments>(packed);
  assignments.check(problem);
  PlacedStages out;
  if (!Placement().place(problem, assignments[0], out)) throw std::invalid_argument("the partition is not legal");
  return to_python(out);
}

IncrementalLoads* make_incremental(py::handle arrays, py::handle packed) {
  const auto problem = from_python<ProblemArrays>(arrays);
  const auto assignments = from_python<PackedAssignments>(packed);
  assignments.check(problem);
  return new IncrementalLoads(problem, assignments[0]);
}

void check_move(const IncrementalLoads& loads, Int op, Int stage) {
  if (op < 0 || op >= loads.num_ops()) throw py::index_error("there is no op " + std::to_string(op));
  if (stage < 0 || stage >= loads.num_stages()) throw py::index_error("there is no stage " + std::to_string(stage));
}

// [n] the bottleneck if an op were in a stage, for each of n ops and stages.
py::array_t<double> costs_of_moves(IncrementalLoads& loads, py::handle ops, py::handle stages) {
  View<const Int> op, stage;
  read("ops", ops, op);
  read("stages", stages, stage);
  check_length("stages", stage.size(), op.size());
  check_range("ops", op, 0, loads.num_ops());
  check_range("stages", stage, 0, loads.num_stages());
  Reals costs(op.size());
  {
    py::gil_scoped_release unlocked;
    for (Int i = 0; i < op.size(); ++i) costs[i] = loads.cost_of_move(op[i], stage[i]);
  }
  return as_array(std::move(costs));
}

}  // namespace

void bind_cost(py::module_& module) {
  module.attr("LONGEST_PERIOD") = LONGEST_PERIOD;
  module.attr("REFRESH_AFTER") = Int{IncrementalLoads::REFRESH_AFTER};
  module.def("device_loads", &loads_of, py::arg("placed"));
  module.def("place_assignment", &place_assignment, py::arg("arrays"), py::arg("packed"));
  module.def("transfer_s", [](double bandwidth, double latency_s, double num_bytes) {
    return transfer_s(Path{bandwidth, latency_s}, num_bytes);
  }, py::arg("bandwidth"), py::arg("latency_s"), py::arg("num_bytes"));
  module.def("all_reduce_s", [](py::handle links, py::handle devices, double num_bytes) {
    const auto of_devices = from_python<Links>(links);
    Ints members;
    read("devices", devices, members);
    check_range("devices", members, 0, size_of(of_devices.host));
    return all_reduce_s(of_devices, {members.data(), size_of(members)}, num_bytes);
  }, py::arg("links"), py::arg("devices"), py::arg("num_bytes"));
  py::class_<IncrementalLoads>(module, "IncrementalLoads")
      .def(py::init(&make_incremental), py::arg("arrays"), py::arg("packed"))
      .def_property_readonly("bottleneck_s", &IncrementalLoads::bottleneck_s)
      .def_property_readonly("labels", [](const IncrementalLoads& loads) { return as_array(Ints(loads.labels())); })
      .def("cost_of_move", [](IncrementalLoads& loads, Int op, Int stage) {
        check_move(loads, op, stage);
        return loads.cost_of_move(op, stage);
      }, py::arg("op"), py::arg("stage"))
      .def("costs_of_moves", &costs_of_moves, py::arg("ops"), py::arg("stages"))
      .def("move", [](IncrementalLoads& loads, Int op, Int stage) {
        check_move(loads, op, stage);
        loads.move(op, stage);
        loads.refresh_when_due();
      }, py::arg("op"), py::arg("stage"))
      .def("refresh", &IncrementalLoads::refresh);
}

}  // namespace drlpp
