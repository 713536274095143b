// Internal to comm/*.cpp: what every communicator demands of its arguments.
#pragma once

#include <ATen/core/Tensor.h>

#include "base/error.hpp"

namespace syncbn {

inline void check_contiguous(const at::Tensor& t) {
  SYNCBN_CHECK(t.is_contiguous(), "A communicator takes contiguous tensors only.");
}

inline void check_gather(const at::Tensor& t, const at::Tensor& out, int size) {
  check_contiguous(out);
  SYNCBN_CHECK(out.scalar_type() == t.scalar_type() && out.device() == t.device() &&
                   out.numel() == size * t.numel(),
               "all_gather of ", t.sizes(), " over ", size, " ranks cannot go into ", out.sizes(),
               ": dtype and device must be equal, and the elements ", size, " times as many.");
}

inline void check_exchange(const at::Tensor& t, const at::Tensor& out, int size) {
  check_contiguous(out);
  SYNCBN_CHECK(
      out.scalar_type() == t.scalar_type() && out.device() == t.device() &&
          out.numel() == t.numel() && t.numel() % size == 0,
      "all_to_all of ", t.sizes(), " over ", size, " ranks cannot go into ", out.sizes(),
      ": dtype, device and number of elements must be equal, and every rank gets as many.");
}

inline void check_root(int root, int size) {
  SYNCBN_CHECK(root >= 0 && root < size, "Rank ", root, " cannot broadcast to ", size, " ranks.");
}

[[noreturn]] inline void refuse_type(at::ScalarType type) {
  throw Error(concat("A communicator takes float32, float64, int32, int64 and uint8, not ",
                     at::toString(type), "."));
}

}  // namespace syncbn
