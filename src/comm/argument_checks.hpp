// Internal to comm/*.cpp: what every communicator demands of its arguments.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Layout.h>

#include "base/error.hpp"

namespace syncbn {

/// Throws for a tensor that cannot be sent; the message ends with what to do instead.
inline void check_sendable(const at::Tensor& t) {
  if (!t.defined()) {
    throw Error(
        "A collective was given an undefined tensor, such as the gradient of a parameter that had "
        "no part in the loss. For gradients call reduce_gradients (comm/reduce_gradients.hpp), "
        "which passes over those.");
  }
  if (t.layout() != at::kStrided) {
    throw Error(concat("A collective was given a tensor of layout ", t.layout(), " and sizes ",
                       t.sizes(), ", and takes dense ones: hand in t.to_dense()."));
  }
  if (!t.is_contiguous()) {
    throw Error(concat("A collective was given a tensor of sizes ", t.sizes(), " and strides ",
                       t.strides(),
                       ", and takes contiguous ones: hand in t.contiguous() and copy the result "
                       "back. reduce_gradients (comm/reduce_gradients.hpp) takes gradients of any "
                       "strides."));
  }
}

inline void check_gather(const at::Tensor& t, const at::Tensor& out, int size) {
  check_sendable(out);
  SYNCBN_CHECK(out.scalar_type() == t.scalar_type() && out.device() == t.device() &&
                   out.numel() == size * t.numel(),
               "all_gather of ", t.sizes(), " over ", size, " ranks cannot go into ", out.sizes(),
               ": dtype and device must be equal, and the elements ", size, " times as many.");
}

inline void check_exchange(const at::Tensor& t, const at::Tensor& out, int size) {
  check_sendable(out);
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
  throw Error(concat("A collective was given a tensor of ", at::toString(type),
                     ", and takes float32, float64, int32, int64 and uint8: convert it first, as "
                     "with t.to(torch::kFloat). reduce_gradients (comm/reduce_gradients.hpp) sums "
                     "gradients of float16 and bfloat16 in float32."));
}

}  // namespace syncbn
