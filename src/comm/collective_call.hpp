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

struct CollectiveCall {
  CallKind kind = CallKind::kBarrier;
  Purpose purpose;
  int64_t elements = 0;  ///< of this rank's input; 0 where no tensor is moved
  at::ScalarType dtype = at::ScalarType::Undefined;  ///< Undefined where no tensor is moved
  int detail = 0;  ///< all_reduce: the ReduceOp; broadcast: the root
};

/// "all_gather: batch norm's moments of layer 2, 257 float64"
std::string describe(const CollectiveCall& call);

}  // namespace syncbn
