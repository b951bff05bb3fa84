// What Python sees of the evaluator.
#include "border/bindings.h"
#include "border/checks.h"
#include "border/fields.h"
#include "sim/batch_evaluator.h"

namespace drlpp {

namespace {

Selection::Wanted read_wanted(py::handle flags) {
  View<const bool> given;
  read("wanted", flags, given);
  check_length("wanted", given.size(), NUM_SCHEDULES);
  Selection::Wanted wanted;
  std::copy(given.begin(), given.end(), wanted.begin());
  return wanted;
}

PackedAssignments read_packed(const BatchEvaluator& evaluator, py::handle packed) {
  auto assignments = from_python<PackedAssignments>(packed);
  assignments.check(evaluator.problem());
  return assignments;
}

py::dict evaluate(BatchEvaluator& evaluator, py::handle packed, py::handle wanted, double give_up_s) {
  const auto assignments = read_packed(evaluator, packed);
  const auto flags = read_wanted(wanted);
  Evaluations out;
  {
    py::gil_scoped_release unlocked;
    out = evaluator.evaluate(assignments, flags, give_up_s);
  }
  return to_python(out);
}

// The fields of the evaluations, and those of the order of the last one.
py::tuple evaluate_with_order(BatchEvaluator& evaluator, py::handle packed, py::handle wanted) {
  const auto assignments = read_packed(evaluator, packed);
  const auto flags = read_wanted(wanted);
  Evaluations out;
  FlatSchedule order;
  {
    py::gil_scoped_release unlocked;
    out = evaluator.evaluate(assignments, flags, std::numeric_limits<double>::infinity(), &order);
  }
  return py::make_tuple(to_python(out), to_python(order));
}

// The [D] loads of one assignment.
py::array_t<double> loads(BatchEvaluator& evaluator, py::handle packed) {
  const auto assignments = read_packed(evaluator, packed);
  check_length("stage_off", assignments.size(), 1);
  Reals out;
  {
    py::gil_scoped_release unlocked;
    out = evaluator.loads(assignments[0]);
  }
  if (out.empty()) throw std::invalid_argument("the partition is not legal");
  return as_array(std::move(out));
}

}  // namespace

void bind_sim(py::module_& module) {
  py::class_<BatchEvaluator>(module, "BatchEvaluator")
      .def(py::init([](py::handle arrays, Int num_threads) {
             return new BatchEvaluator(from_python<ProblemArrays>(arrays), num_threads);
           }), py::arg("arrays"), py::arg("num_threads"))
      .def("evaluate", &evaluate, py::arg("packed"), py::arg("wanted"), py::arg("give_up_s"))
      .def("evaluate_with_order", &evaluate_with_order, py::arg("packed"), py::arg("wanted"))
      .def("loads", &loads, py::arg("packed"));
}

}  // namespace drlpp
