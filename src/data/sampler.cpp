#include "data/sampler.hpp"

#include <algorithm>

#include "base/error.hpp"
#include "base/random.hpp"

namespace syncbn {

BatchSampler::BatchSampler(int64_t n, int64_t batch, uint64_t seed, bool drop_last)
    : n_(n), batch_(batch), seed_(seed), drop_last_(drop_last) {
  SYNCBN_CHECK(n >= 0 && batch > 0, "n is ", n, " and the batch ", batch, ".");
}

void BatchSampler::start_epoch(int64_t epoch) {
  order_ = RandomStream(seed_, Stream::kOrder, static_cast<uint64_t>(epoch)).permutation(n_);
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
