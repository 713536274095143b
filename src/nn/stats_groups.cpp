#include "nn/stats_groups.hpp"

#include <algorithm>
#include <utility>

namespace syncbn {
namespace {

// Start of each group, and b at the end.
std::vector<int64_t> group_offsets(int64_t batch, int64_t group_size, int ranks) {
  std::vector<int64_t> offsets;
  if (group_size == kLocal) {
    for (int r = 0; r < ranks; ++r) {
      const Range share = share_of(batch, r, ranks);
      if (share.size() > 0) offsets.push_back(share.begin);
    }
  } else {
    for (int64_t begin = 0; begin < batch; begin += group_size) offsets.push_back(begin);
  }
  offsets.push_back(batch);
  return offsets;
}

bool crosses(const std::vector<int64_t>& offsets, int64_t row) {
  return !std::binary_search(offsets.begin(), offsets.end(), row);
}

}  // namespace

GroupPlan plan_groups(int64_t batch, int64_t group_size, int rank, int ranks) {
  SYNCBN_CHECK(batch >= 0 && group_size >= 0 && rank >= 0 && rank < ranks);
  const auto offsets = group_offsets(batch, group_size, ranks);
  GroupPlan plan;

  // Ranks whose common border falls inside a group are tied together.
  int first = 0, color = 0;
  for (int r = 1; r <= rank; ++r) {
    if (!crosses(offsets, share_of(batch, r, ranks).begin)) first = r, color = r;
  }
  int last = rank;
  while (last + 1 < ranks && crosses(offsets, share_of(batch, last + 1, ranks).begin)) ++last;
  plan.color = color;

  const Range mine = share_of(batch, rank, ranks);
  const Range tied = {share_of(batch, first, ranks).begin, share_of(batch, last, ranks).end};
  plan.groups.smallest = batch;
  for (size_t g = 0; g + 1 < offsets.size(); ++g) {
    const Range group = {offsets[g], offsets[g + 1]};
    plan.groups.smallest = std::min(plan.groups.smallest, group.size());
    if (group.begin < tied.begin || group.end > tied.end || group.size() == 0) continue;
    bool spans = false;  // is there a rank border inside the group?
    for (int r = first + 1; r <= last; ++r) {
      const int64_t border = share_of(batch, r, ranks).begin;
      spans = spans || (border > group.begin && border < group.end);
    }
    const Range rows = {std::max(group.begin, mine.begin), std::min(group.end, mine.end)};
    if (rows.size() > 0) {
      plan.groups.pieces.push_back({{rows.begin - mine.begin, rows.end - mine.begin},
                                    spans ? plan.groups.shared : StatsGroups::kWhole,
                                    group.size()});
    }
    if (spans) ++plan.groups.shared;
  }
  return plan;
}

const StatsGroups& StatsGrouping::of(int64_t batch) {
  const auto known = groups_.find(batch);
  if (known != groups_.end()) return known->second;
  GroupPlan plan = plan_groups(batch, size_, world_->rank(), world_->size());
  plan.groups.comm = world_->split(plan.color, world_->rank());
  return groups_.emplace(batch, std::move(plan.groups)).first->second;
}

int64_t group_size(const std::string& norm_batch, int64_t batch) {
  if (norm_batch == "global") return batch;
  if (norm_batch == "local") return kLocal;
  return std::stoll(norm_batch);
}

}  // namespace syncbn
