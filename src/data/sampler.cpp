#include "data/sampler.hpp"

#include <algorithm>

#include "base/error.hpp"
#include "base/random.hpp"

namespace syncbn {

BatchSampler::BatchSampler(int64_t n, int64_t batch, uint64_t seed, bool drop_last,
                           std::optional<uint64_t> grouping)
    : n_(n), batch_(batch), seed_(seed), drop_last_(drop_last), grouping_(grouping) {
  SYNCBN_CHECK(n >= 0 && batch > 0, "n is ", n, " and the batch ", batch, ".");
}

void BatchSampler::start_epoch(int64_t epoch) {
  order_ = RandomStream(seed_, Stream::kOrder, static_cast<uint64_t>(epoch)).permutation(n_);
  if (grouping_) regroup(epoch);
}

void BatchSampler::regroup(int64_t epoch) {
  constexpr int kStepBits = 32;
  std::vector<int64_t> batch;
  for (int64_t step = 0; step < steps_per_epoch(); ++step) {
    int64_t* first = order_.data() + step * batch_;
    batch.assign(first, first + batch_size(step));
    const auto index = static_cast<uint64_t>(epoch) << kStepBits | static_cast<uint64_t>(step);
    for (const int64_t i :
         RandomStream(*grouping_, Stream::kGrouping, index).permutation(batch_size(step))) {
      *first++ = batch[static_cast<size_t>(i)];
    }
  }
}

int64_t BatchSampler::steps_per_epoch() const {
  return drop_last_ ? n_ / batch_ : (n_ + batch_ - 1) / batch_;
}

int64_t BatchSampler::batch_size(int64_t step) const {
  return std::min(batch_, n_ - step * batch_);
}

const int64_t* BatchSampler::samples(int64_t step, Range rows) const {
  SYNCBN_CHECK(0 <= step && step < steps_per_epoch() && 0 <= rows.begin && rows.begin <= rows.end &&
                   rows.end <= batch_size(step) && !order_.empty(),
               "No rows ", rows.begin, " to ", rows.end, " in step ", step, " of this epoch.");
  return order_.data() + step * batch_ + rows.begin;
}

}  // namespace syncbn
