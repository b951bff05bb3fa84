// A stream of random numbers: the Mersenne Twister, with the numbers that numpy's `RandomState` of the same seed gives.
#pragma once

#include <random>

#include "border/view.h"

namespace drlpp {

class RandomStream {
 public:
  // The lower 32 bits of the seed count.
  explicit RandomStream(Int seed) : engine_(static_cast<std::uint32_t>(seed)) {}

  // One of 0 .. number - 1, all as likely; draws again where the bits that it takes make a larger number.
  Int below(Int number) {
    if (number <= 1) return 0;
    std::uint64_t mask = static_cast<std::uint64_t>(number - 1);
    for (int shift = 1; shift < 64; shift *= 2) mask |= mask >> shift;
    while (true) {
      const std::uint64_t bits = next_bits(mask) & mask;
      if (bits < static_cast<std::uint64_t>(number)) return static_cast<Int>(bits);
    }
  }

  // From 0 to below 1, in steps of 2^-53.
  double unit() {
    const double high = engine_() >> 5, low = engine_() >> 6;
    return (high * 67108864.0 + low) / 9007199254740992.0;
  }

 private:
  std::uint64_t next_bits(std::uint64_t mask) {
    if (mask <= 0xffffffffu) return engine_();
    const std::uint64_t high = engine_();
    return high << 32 | engine_();
  }

  std::mt19937 engine_;
};

}  // namespace drlpp
