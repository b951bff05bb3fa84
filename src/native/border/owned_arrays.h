// Arrays of Python from tables and cubes that own their elements, which move into them.
#pragma once

#include "border/fields.h"
#include "border/owned.h"

namespace drlpp {

template <class T>
py::array_t<T> as_table(OwnedTable<T>&& table) {
  const Int rows = table.rows(), columns = table.columns();
  return as_array(table.take()).reshape({rows, columns});
}

template <class T>
py::array_t<T> as_cube(OwnedCube<T>&& cube) {
  const Int planes = cube.planes(), rows = cube.rows(), columns = cube.columns();
  return as_array(cube.take()).reshape({planes, rows, columns});
}

// Flags: one byte each, as numpy's bool.
inline py::array as_flags(OwnedTable<char>&& table) {
  return as_table(std::move(table)).attr("view")("bool").cast<py::array>();
}

}  // namespace drlpp
