// Arrays of two and three dimensions that own their elements; `Table` and `Cube` are their views.
#pragma once

#include <utility>
#include <vector>

#include "border/view.h"

namespace drlpp {

// Rows of equal length, one after the other; `table[i]` is row i.
template <class T>
class OwnedTable {
 public:
  OwnedTable() = default;
  OwnedTable(Int rows, Int columns, T value) : rows_(rows), columns_(columns), elements_(rows * columns, value) {}

  Int rows() const { return rows_; }
  Int columns() const { return columns_; }
  T* operator[](Int i) { return elements_.data() + i * columns_; }
  const T* operator[](Int i) const { return elements_.data() + i * columns_; }
  Table<T> table() { return {elements_.data(), rows_, columns_}; }
  Table<const T> table() const { return {elements_.data(), rows_, columns_}; }
  // The elements, row after row; it is empty then.
  std::vector<T> take() { return std::move(elements_); }

 private:
  Int rows_ = 0, columns_ = 0;
  std::vector<T> elements_;
};

// Planes of equal size, one after the other; `cube.row(i, j)` is the innermost row.
template <class T>
class OwnedCube {
 public:
  OwnedCube() = default;
  OwnedCube(Int planes, Int rows, Int columns, T value)
      : planes_(planes), rows_(rows), columns_(columns), elements_(planes * rows * columns, value) {}

  T* row(Int i, Int j) { return elements_.data() + (i * rows_ + j) * columns_; }
  const T* row(Int i, Int j) const { return elements_.data() + (i * rows_ + j) * columns_; }
  Int planes() const { return planes_; }
  Int rows() const { return rows_; }
  Int columns() const { return columns_; }
  // The elements; it is empty then.
  std::vector<T> take() { return std::move(elements_); }
  Cube<T> cube() { return {elements_.data(), planes_, rows_, columns_}; }
  Cube<const T> cube() const { return {elements_.data(), planes_, rows_, columns_}; }

 private:
  Int planes_ = 0, rows_ = 0, columns_ = 0;
  std::vector<T> elements_;
};

}  // namespace drlpp
