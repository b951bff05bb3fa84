// Views of arrays that somebody else owns: one pointer and the sizes, as cheap as a raw pointer.
#pragma once

#include <cstdint>
#include <vector>

namespace drlpp {

using Int = std::int64_t;
using Ints = std::vector<Int>;
using Reals = std::vector<double>;

// A one-dimensional array.
template <class T>
struct View {
  T* data = nullptr;
  Int length = 0;

  View() = default;
  View(T* first, Int number) : data(first), length(number) {}
  operator View<const T>() const { return {data, length}; }

  T& operator[](Int i) const { return data[i]; }
  Int size() const { return length; }
  T* begin() const { return data; }
  T* end() const { return data + length; }
  // The elements first .. last - 1.
  View part(Int first, Int last) const { return {data + first, last - first}; }
};

// A two-dimensional array, row after row; `table[i]` is row i.
template <class T>
struct Table {
  T* data = nullptr;
  Int rows = 0;
  Int columns = 0;

  Table() = default;
  Table(T* first, Int number, Int width) : data(first), rows(number), columns(width) {}
  operator Table<const T>() const { return {data, rows, columns}; }

  T* operator[](Int i) const { return data + i * columns; }
  View<T> row(Int i) const { return {data + i * columns, columns}; }
};

// A three-dimensional array; `cube.row(i, j)` is the innermost row.
template <class T>
struct Cube {
  T* data = nullptr;
  Int planes = 0;
  Int rows = 0;
  Int columns = 0;

  Cube() = default;
  Cube(T* first, Int number, Int height, Int width) : data(first), planes(number), rows(height), columns(width) {}
  operator Cube<const T>() const { return {data, planes, rows, columns}; }

  T* row(Int i, Int j) const { return data + (i * rows + j) * columns; }
};

// A two-dimensional array that owns its elements.
struct Matrix {
  Reals values;
  Int rows = 0;
  Int columns = 0;

  double* operator[](Int i) { return values.data() + i * columns; }
  const double* operator[](Int i) const { return values.data() + i * columns; }
  void assign(Int number, Int width, double value) {
    rows = number;
    columns = width;
    values.assign(static_cast<std::size_t>(number * width), value);
  }
};

template <class T>
View<T> view(std::vector<T>& owner) {
  return {owner.data(), static_cast<Int>(owner.size())};
}

template <class T>
View<const T> view(const std::vector<T>& owner) {
  return {owner.data(), static_cast<Int>(owner.size())};
}

template <class T>
View<const T> cview(const std::vector<T>& owner) {
  return {owner.data(), static_cast<Int>(owner.size())};
}

template <class T>
Int size_of(const std::vector<T>& owner) {
  return static_cast<Int>(owner.size());
}

}  // namespace drlpp
