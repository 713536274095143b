// A collective call as its caller means it: what the watchdog reports and the contract compares.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <string>

namespace syncbn {

/// What a collective is for: "gradients", or "batch norm's moments" of layer 2.
struct Purpose {
  const char* what = "";  ///< a string literal
  int layer = -1;         ///< -1: of no layer
};

enum class ReduceOp { kSum, kMax, kMin };

enum class CallKind : uint8_t {
  kAllReduce,
  kAllGather,
  kAllToAll,
  kBroadcast,
  kBarrier,
  kSplit,
  kMaxOnHost,
  kGatherText
};

/// Whether calls of this kind move a tensor.
inline bool moves_tensor(CallKind kind) {
  return kind <= CallKind::kBroadcast;
}

struct CollectiveCall {
  CallKind kind = CallKind::kBarrier;
  Purpose purpose;
  int64_t elements = 0;  ///< of this rank's input; 0 where no tensor is moved
  at::ScalarType dtype = at::ScalarType::Undefined;  ///< Undefined where no tensor is moved
  int detail = 0;  ///< all_reduce: the ReduceOp; broadcast: the root
};

/// "all_reduce (sum): gradients, 109386 float32"
std::string describe(const CollectiveCall& call);

}  // namespace syncbn
