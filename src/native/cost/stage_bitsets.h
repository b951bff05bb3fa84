// Sets of stages as rows of 64-bit words, and the order of their sorted lists.
#pragma once

#include <cstdint>
#include <vector>

#include "border/view.h"

namespace drlpp {

class StageSets {
 public:
  // Empty sets of stages below `num_stages`, `number` of them.
  void assign(Int number, Int num_stages) {
    num_words_ = (num_stages + 63) / 64;
    words_.assign(number * num_words_, 0);
  }
  // Adds an empty set; returns its number.
  Int add_row() {
    words_.resize(words_.size() + num_words_, 0);
    return size() - 1;
  }
  void drop_last() { words_.resize(words_.size() - num_words_); }
  Int size() const { return num_words_ == 0 ? 0 : size_of(words_) / num_words_; }

  void insert(Int row, Int stage) { words_[row * num_words_ + (stage >> 6)] |= std::uint64_t{1} << (stage & 63); }
  bool has(Int row, Int stage) const { return words_[row * num_words_ + (stage >> 6)] >> (stage & 63) & 1; }

  bool equal(Int i, Int j) const {
    for (Int w = 0; w < num_words_; ++w) {
      if (words_[i * num_words_ + w] != words_[j * num_words_ + w]) return false;
    }
    return true;
  }

  // Whether the sorted list of set i comes before that of set j: (1,) < (1, 2) < (2,).
  bool lists_before(Int i, Int j) const {
    const std::uint64_t* a = words_.data() + i * num_words_;
    const std::uint64_t* b = words_.data() + j * num_words_;
    for (Int w = 0; w < num_words_; ++w) {
      const std::uint64_t difference = a[w] ^ b[w];
      if (difference == 0) continue;
      const std::uint64_t lowest = difference & (~difference + 1);
      const bool in_a = (a[w] & lowest) != 0;
      const std::uint64_t* other = in_a ? b : a;  // the set without the lowest element in which they differ
      bool more = other[w] > lowest;
      for (Int x = w + 1; x < num_words_; ++x) more = more || other[x] != 0;
      return in_a == more;
    }
    return false;
  }

  // Calls `act(stage)` for the stages of a set, in order.
  template <class Act>
  void for_each(Int row, Act act) const {
    for (Int w = 0; w < num_words_; ++w) {
      for (std::uint64_t left = words_[row * num_words_ + w]; left != 0; left &= left - 1) {
        act(64 * w + static_cast<Int>(__builtin_ctzll(left)));
      }
    }
  }

 private:
  Int num_words_ = 0;
  std::vector<std::uint64_t> words_;
};

}  // namespace drlpp
