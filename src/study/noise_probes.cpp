// The probes that draw samples: the law of the statistics' noise, and the gradient's noise scale.
#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

#include "base/random.hpp"
#include "study/population.hpp"
#include "study/probes.hpp"
#include "study/unit_statistics.hpp"

namespace syncbn {
namespace {

constexpr int64_t kSamplesOfDraw = 64;  // at least: smaller groups are drawn more often

// The places 0 … n−1, of which each draw brings m random ones to the front.
class GroupDraws {
 public:
  GroupDraws(const RandomStream& random, int64_t n)
      : random_(random), places_(static_cast<size_t>(n)) {
    std::iota(places_.begin(), places_.end(), int64_t{0});
  }
  at::Tensor draw(int64_t m) {
    for (size_t i = 0; i < static_cast<size_t>(m); ++i) {
      std::swap(places_[i], places_[i + random_.below(places_.size() - i, position_++)]);
    }
    return at::from_blob(places_.data(), {m}, at::kLong);
  }

 private:
  RandomStream random_;
  std::vector<int64_t> places_;
  uint64_t position_ = 0;
};

}  // namespace

std::vector<NoiseLawRow> probe_noise_law(Trainer& trainer, int64_t population,
                                         const std::vector<int64_t>& ms, int64_t draws) {
  std::vector<NoiseLawRow> rows;
  for (const auto& [layer, received] : norm_inputs(trainer, population)) {
    const UnitMoments moments = unit_moments(received.values);
    for (const int64_t m : ms) {
      NoiseMeter meter(moments);
      const int64_t drawn = std::max(draws, draws * kSamplesOfDraw / m);
      if (m <= moments.samples) {
        GroupDraws groups(random_for(trainer, Draw::kLaw, m), moments.samples);
        for (int64_t d = 0; d < drawn; ++d) {
          meter.add(received.values.index_select(0, groups.draw(m)));
        }
      }
      const StatisticsNoise noise = meter.noise(), theory = noise_theory(moments, m);
      rows.push_back({static_cast<int64_t>(layer), m, drawn, noise.mean, theory.mean,
                      noise.variance, theory.variance});
    }
  }
  return rows;
}

NoiseScaleRow probe_noise_scale(Trainer& trainer, int64_t batches) {
  const int64_t batch = trainer.batch(), n = trainer.data().train.size();
  const int64_t count = std::min(batches, n / batch);
  NoiseScaleRow row;
  row.step = trainer.step();
  row.small_batch = batch;
  row.big_batch = count * batch;
  if (count < 2) return row;

  const auto samples = random_for(trainer, Draw::kScale, trainer.step()).permutation(n);
  at::Tensor mean = at::zeros_like(trainer.replica().gradients(), at::kDouble);
  double small = 0;
  for (int64_t k = 0; k < count; ++k) {
    trainer.look_backward(samples.data() + k * batch, batch);
    const at::Tensor gradient = trainer.replica().gradients().to(at::kDouble);
    mean += gradient;
    small += square_norm(gradient);
  }
  mean /= static_cast<double>(count);
  row.small_norm2 = small / static_cast<double>(count);
  row.big_norm2 = square_norm(mean);
  const auto b1 = static_cast<double>(row.small_batch), b2 = static_cast<double>(row.big_batch);
  row.gradient_norm2 = (b2 * row.big_norm2 - b1 * row.small_norm2) / (b2 - b1);
  row.noise = (row.small_norm2 - row.big_norm2) / (1 / b1 - 1 / b2);
  return row;
}

}  // namespace syncbn
