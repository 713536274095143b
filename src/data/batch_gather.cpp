#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "base/error.hpp"
#include "comm/overlap.hpp"
#include "data/dataset.hpp"

namespace syncbn {
namespace {

constexpr int64_t kParallelPixels = 1 << 15;  // below this, a thread costs more than it saves

/// (256) on the CPU: the scaled value of each byte, computed in double and rounded once.
at::Tensor scale_table(PixelScale scale, at::ScalarType dtype) {
  at::Tensor table = at::empty({256}, at::kDouble);
  for (int byte = 0; byte < 256; ++byte) {
    const double value = (byte / 255.0 - scale.shift) / scale.divisor;
    table.data_ptr<double>()[byte] = scale.binary ? (value > 0 ? 1.0 : 0.0) : value;
  }
  return table.to(dtype);
}

}  // namespace

struct BatchGather::Batch {
  const Split& split;
  const int64_t* samples;
  int64_t n;
  const Augmentation* augmentation;  // null: the images as they are
  int64_t place;                     // of the first sample, in the epoch

  /// Calls row(i, pixels, label) for each of the samples, over threads.
  template <class F>
  void for_each_row(F&& row) const {
    const auto* images = split.images.const_data_ptr<uint8_t>();
    const auto* labels = split.labels.const_data_ptr<int64_t>();
    const int64_t pixels = split.pixels();
    const bool changes = augmentation != nullptr && augmentation->changes();
    const int64_t grain = std::max<int64_t>(1, kParallelPixels / pixels);
    at::parallel_for(0, n, grain, [&](int64_t begin, int64_t end) {
      std::vector<uint8_t> changed(changes ? static_cast<size_t>(pixels) : 0);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t stored = split.rows[static_cast<size_t>(samples[i])];
        const uint8_t* image = images + stored * pixels;
        if (changes) (*augmentation)(place + i, image, changed.data());
        row(i, changes ? changed.data() : image, labels[stored]);
      }
    });
  }

  template <class T>
  void scale(const at::Tensor& table, at::Tensor& x, at::Tensor& labels) const {
    const T* value = table.const_data_ptr<T>();
    const int64_t pixels = split.pixels();
    T* out = x.data_ptr<T>();
    auto* out_labels = labels.data_ptr<int64_t>();
    for_each_row([&](int64_t i, const uint8_t* in, int64_t label) {
      T* row = out + i * pixels;
      for (int64_t p = 0; p < pixels; ++p) row[p] = value[in[p]];
      out_labels[i] = label;
    });
  }
};

/// What a batch passes through on its way to a device.
struct BatchGather::Staging {
  HostStaging images, labels;  // (capacity, pixels) uint8, (capacity) int64
  at::Tensor table;            // (256) dtype, device
  at::Tensor bytes;            // (capacity, pixels) uint8, device
  at::Tensor index;  // (capacity, pixels) int32, device: the bytes as index_select takes them

  Staging(const at::Tensor& host_table, int64_t capacity, int64_t pixels, at::Device device)
      : images({capacity, pixels}, at::kByte, device),
        labels({capacity}, at::kLong, device),
        table(host_table.to(device)),
        bytes(at::empty({capacity, pixels}, at::device(device).dtype(at::kByte))),
        index(at::empty({capacity, pixels}, at::device(device).dtype(at::kInt))) {}
};

BatchGather::BatchGather(const Split& split, PixelScale scale, int64_t capacity,
                         at::ScalarType dtype, at::Device device)
    : split_(split), capacity_(capacity), table_(scale_table(scale, dtype)), device_(device) {
  SYNCBN_CHECK(dtype == at::kFloat || dtype == at::kDouble, "dtype is ", dtype, ".");
  if (device.is_cuda()) {
    staging_ = std::make_unique<Staging>(table_, capacity, split.pixels(), device);
  }
}

BatchGather::~BatchGather() = default;

void BatchGather::operator()(const int64_t* samples, int64_t n, at::Tensor& x, at::Tensor& labels,
                             const Augmentation* augmentation, int64_t place) {
  SYNCBN_CHECK(n <= capacity_ && x.is_contiguous() && x.dim() == 2 && x.size(0) == n &&
                   x.size(1) == split_.pixels() && x.scalar_type() == table_.scalar_type() &&
                   labels.is_contiguous() && labels.dim() == 1 && labels.size(0) == n &&
                   labels.scalar_type() == at::kLong && x.device() == device_,
               "A batch of ", n, " samples (of at most ", capacity_, ") needs x (", n, ", ",
               split_.pixels(), ") and labels (", n, "), found ", x.sizes(), " and ",
               labels.sizes(), ".");
  if (n == 0) return;
  const Batch batch{split_, samples, n, augmentation, place};
  if (staging_) {
    gather_on_cuda(batch, x, labels);
  } else if (x.scalar_type() == at::kFloat) {
    batch.scale<float>(table_, x, labels);
  } else {
    batch.scale<double>(table_, x, labels);
  }
}

// The device looks values up in the very table of the CPU: an ATen division by 255 there multiplies
// by the reciprocal and would differ in the last bit.
void BatchGather::gather_on_cuda(const Batch& batch, at::Tensor& x, at::Tensor& labels) {
  const int64_t n = batch.n, pixels = split_.pixels();
  auto* images = staging_->images.to_fill().data_ptr<uint8_t>();
  auto* host_labels = staging_->labels.to_fill().data_ptr<int64_t>();
  batch.for_each_row([&](int64_t i, const uint8_t* in, int64_t label) {
    std::copy_n(in, pixels, images + i * pixels);
    host_labels[i] = label;
  });

  at::Tensor bytes = staging_->bytes.narrow(0, 0, n), index = staging_->index.narrow(0, 0, n);
  staging_->images.send(bytes);
  staging_->labels.send(labels);
  index.copy_(bytes);
  at::Tensor flat = x.view({-1});
  at::index_select_out(flat, staging_->table, 0, index.view({-1}));
}

}  // namespace syncbn
