#include "comm/collective_call.hpp"

#include "base/error.hpp"

namespace syncbn {
namespace {

const char* name_of(CallKind kind) {
  switch (kind) {
    case CallKind::kAllReduce:
      return "all_reduce";
    case CallKind::kAllGather:
      return "all_gather";
    case CallKind::kAllToAll:
      return "all_to_all";
    case CallKind::kBroadcast:
      return "broadcast";
    case CallKind::kBarrier:
      return "barrier";
    case CallKind::kSplit:
      return "split";
    case CallKind::kMaxOnHost:
      return "max_on_host";
    case CallKind::kGatherText:
      return "gather_text";
  }
  return "unknown call";
}

const char* name_of(ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
      return "sum";
    case ReduceOp::kMax:
      return "max";
    case ReduceOp::kMin:
      return "min";
  }
  return "unknown operation";
}

}  // namespace

std::string describe(const CollectiveCall& call) {
  std::string text = name_of(call.kind);
  if (call.kind == CallKind::kAllReduce) {
    text += concat(" (", name_of(static_cast<ReduceOp>(call.detail)), ")");
  } else if (call.kind == CallKind::kBroadcast) {
    text += concat(" (from ", call.detail, ")");
  }
  if (*call.purpose.what != '\0') text += concat(": ", call.purpose.what);
  if (call.purpose.layer >= 0) text += concat(" of layer ", call.purpose.layer);
  if (call.dtype != at::ScalarType::Undefined) {
    text += concat(", ", call.elements, " ", c10::getDtypeNames(call.dtype).first);
  }
  return text;
}

}  // namespace syncbn
