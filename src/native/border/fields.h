// The border to Python: structs are filled from, and become, the fields of a NamedTuple, by name.
//
// A struct lists its fields once:
//
//     struct Example {
//       Int number;             // int
//       double factor;          // float
//       Reals seconds;          // [n], copied
//       View<const Int> label;  // [n], not copied: the NamedTuple must outlive the struct
//       template <class Visitor> void visit(Visitor& field) {
//         field("number", number); field("factor", factor); field("seconds", seconds); field("label", label);
//       }
//     };
//
//     auto example = from_python<Example>(record);   // raises TypeError for another dtype, order or dimension
//     py::dict fields = to_python(example);          // for Class(**fields) in Python; vectors are moved, not copied
//
// A struct that has a member `void check() const` is checked after it is filled (see border/checks.h). A view of
// constant elements takes any array, one of other elements (`View<double>`) needs a writable array.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "border/view.h"

namespace drlpp {

namespace py = pybind11;

// The data of a C-contiguous array of exactly this dtype and number of dimensions.
template <class T>
py::array_t<std::remove_const_t<T>> exact_array(const char* name, py::handle value, int dimensions) {
  using Element = std::remove_const_t<T>;
  if (!py::isinstance<py::array>(value)) throw py::type_error(std::string(name) + " must be an array");
  auto array = py::reinterpret_borrow<py::array>(value);
  if (!array.dtype().is(py::dtype::of<Element>()) && !array.dtype().equal(py::dtype::of<Element>())) {
    throw py::type_error(std::string(name) + " has dtype " + std::string(py::str(array.dtype())) + ": it must be " +
                         std::string(py::str(py::dtype::of<Element>())));
  }
  if (array.ndim() != dimensions || !(array.flags() & py::array::c_style)) {
    throw py::type_error(std::string(name) + " must be a C-contiguous array of " + std::to_string(dimensions) +
                         " dimension" + (dimensions == 1 ? "" : "s"));
  }
  if (!std::is_const_v<T> && !array.writeable()) throw py::type_error(std::string(name) + " must be writable");
  return py::reinterpret_borrow<py::array_t<Element>>(value);
}

template <class T>
T* elements(const py::array_t<std::remove_const_t<T>>& array) {
  return const_cast<T*>(array.data());
}

inline void read(const char*, py::handle value, Int& out) { out = value.cast<Int>(); }
inline void read(const char*, py::handle value, double& out) { out = value.cast<double>(); }
inline void read(const char*, py::handle value, bool& out) { out = value.cast<bool>(); }

template <class T>
void read(const char* name, py::handle value, View<T>& out) {
  auto array = exact_array<T>(name, value, 1);
  out = {elements<T>(array), array.shape(0)};
}

template <class T>
void read(const char* name, py::handle value, Table<T>& out) {
  auto array = exact_array<T>(name, value, 2);
  out = {elements<T>(array), array.shape(0), array.shape(1)};
}

template <class T>
void read(const char* name, py::handle value, Cube<T>& out) {
  auto array = exact_array<T>(name, value, 3);
  out = {elements<T>(array), array.shape(0), array.shape(1), array.shape(2)};
}

template <class T, class = std::enable_if_t<!std::is_same_v<T, bool>>>
void read(const char* name, py::handle value, std::vector<T>& out) {
  auto array = exact_array<const T>(name, value, 1);
  out.assign(array.data(), array.data() + array.shape(0));
}

inline void read(const char* name, py::handle value, Matrix& out) {
  Table<const double> table;
  read(name, value, table);
  out.rows = table.rows;
  out.columns = table.columns;
  out.values.assign(table.data, table.data + table.rows * table.columns);
}

struct Reader {
  py::handle record;

  template <class T>
  void operator()(const char* name, T& out) {
    read(name, py::object(record.attr(name)), out);
  }
};

template <class T, class = void>
struct has_check : std::false_type {};
template <class T>
struct has_check<T, std::void_t<decltype(std::declval<const T&>().check())>> : std::true_type {};

// A struct filled from the attributes of `record`, and checked.
template <class Struct>
Struct from_python(py::handle record) {
  Struct out;
  Reader reader{record};
  out.visit(reader);
  if constexpr (has_check<Struct>::value) out.check();
  return out;
}

// The array of a vector, which moves into it.
template <class T>
py::array_t<T> as_array(std::vector<T>&& values) {
  auto* owner = new std::vector<T>(std::move(values));
  py::capsule keeper(owner, [](void* p) { delete static_cast<std::vector<T>*>(p); });
  return py::array_t<T>(static_cast<py::ssize_t>(owner->size()), owner->data(), keeper);
}

inline py::object write(Int value) { return py::int_(value); }
inline py::object write(double value) { return py::float_(value); }
inline py::object write(bool value) { return py::bool_(value); }
template <class T>
py::object write(std::vector<T>& values) {
  return as_array(std::move(values));
}

inline py::object write(Matrix& value) {
  return as_array(std::move(value.values)).reshape({value.rows, value.columns});
}

struct Writer {
  py::dict fields;

  template <class T>
  void operator()(const char* name, T& value) {
    fields[name] = write(value);
  }
};

// The fields of a struct by name; its vectors move into arrays.
template <class Struct>
py::dict to_python(Struct&& value) {
  Writer writer;
  value.visit(writer);
  return writer.fields;
}

}  // namespace drlpp
