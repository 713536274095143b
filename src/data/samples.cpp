#include "data/samples.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "base/digest.hpp"
#include "base/random.hpp"
#include "data/idx.hpp"

namespace syncbn {
namespace {

constexpr int64_t kTenClasses = 10;  // of MNIST, its drop-in replacement, and the synthetic set

[[noreturn]] void damaged(const std::string& message) {
  throw Error(message, ExitCode::kInputDamaged);
}

std::string shape(const std::vector<int64_t>& sizes, size_t first) {
  std::string text;
  for (size_t d = first; d < sizes.size(); ++d) text += concat(d == first ? "" : " x ", sizes[d]);
  return text;
}

void check_images(const IdxArray& images, const std::string& path, const std::string& data) {
  const size_t dims = images.sizes.size();
  if (images.type != IdxType::kUnsignedByte) {
    damaged(concat("'", path,
                   "': expected pixels as unsigned bytes (element type 8), found 32-bit "
                   "integers."));
  }
  if (data != "idx" && dims != 3) {
    damaged(concat("'", path, "': expected 3 dimensions (images), found ", dims,
                   dims == 1 ? "." : "; data.name = idx takes 2 to 4."));
  }
  if (dims < 2) {
    damaged(concat("'", path, "': expected 2 to 4 dimensions (samples, then their pixels), found ",
                   dims, "."));
  }
  if (images.bytes.empty()) {
    damaged(concat("'", path, "' holds no images: its sizes are ", shape(images.sizes, 0), "."));
  }
}

/// The labels as the file has them. Of QMNIST's rows of integers the first column is the class.
std::vector<int64_t> labels_of(const IdxArray& array, const std::string& path) {
  const size_t dims = array.sizes.size();
  const bool integers = array.type == IdxType::kInt;
  if (dims != 1 && !(integers && dims == 2)) {
    damaged(concat("'", path, "': expected 1 dimension (labels), or rows of 32-bit integers that ",
                   "begin with the label, found ", dims, " dimensions",
                   integers ? "." : " of bytes."));
  }
  if (!integers) return {array.bytes.begin(), array.bytes.end()};
  const auto columns = static_cast<size_t>(dims == 2 ? array.sizes[1] : 1);
  std::vector<int64_t> labels(columns == 0 ? 0 : static_cast<size_t>(array.sizes[0]));
  for (size_t i = 0; i < labels.size(); ++i) labels[i] = array.int_at(i * columns);
  return labels;
}

/// Images and labels of one purpose, which must fit together.
Samples read_pair(const DataFiles& files, size_t first, const std::string& data,
                  std::array<std::string, 4>& digests) {
  const std::string &images_path = files.paths[first], &labels_path = files.paths[first + 1];
  IdxArray images = read_idx(images_path);
  check_images(images, images_path, data);
  const IdxArray labels = read_idx(labels_path);
  digests[first] = idx_digest(images);
  digests[first + 1] = idx_digest(labels);
  Samples samples{std::move(images.sizes), std::move(images.bytes), labels_of(labels, labels_path)};
  if (samples.size() != static_cast<int64_t>(samples.labels.size())) {
    damaged(concat("'", images_path, "' holds ", samples.size(), " images but '", labels_path,
                   "' holds ", samples.labels.size(),
                   " labels; expected as many labels as images."));
  }
  return samples;
}

std::vector<const Samples*> splits_of(const AllSamples& all) {
  return {&all.train, &all.test};
}

int64_t found_label(const AllSamples& all, bool largest) {
  int64_t found = all.train.labels[0];
  for (const Samples* samples : splits_of(all)) {
    const auto [least, most] = std::minmax_element(samples->labels.begin(), samples->labels.end());
    found = largest ? std::max(found, *most) : std::min(found, *least);
  }
  return found;
}

int64_t classes_of(const AllSamples& all, const DataOptions& options) {
  if (options.classes > 0) return options.classes;
  if (options.name != "idx") return kTenClasses;
  const int64_t classes = found_label(all, /*largest=*/true) - options.label_offset + 1;
  return std::clamp<int64_t>(classes, 1, kMostClasses);  // what is out of range is told below
}

/// What to do about a label that is out of range.
std::string advice_on_labels(const AllSamples& all, const DataOptions& options) {
  const int64_t least = found_label(all, /*largest=*/false);
  const int64_t most = found_label(all, /*largest=*/true);
  if (least < 0 || least > kMostClasses || most - least >= kMostClasses) {
    return concat("The labels are from ", least, " to ", most,
                  ": number the classes from 0 on, as no option can.");
  }
  return options.name == "idx" || options.classes > 0
             ? "Set data.label_offset to the smallest label and data.classes to the number of "
               "classes (0: as many as the labels tell)."
             : "For data of other classes give --data.name idx, which counts them, and "
               "--data.label_offset if their labels do not begin at 0.";
}

/// From labels as the files have them to classes from 0.
void number_classes(AllSamples& all, const DataOptions& options, const DataFiles& files) {
  all.classes = classes_of(all, options);
  const int64_t least = options.label_offset, most = least + all.classes - 1;
  for (Samples* samples : {&all.train, &all.test}) {
    const auto bad = std::find_if(samples->labels.begin(), samples->labels.end(),
                                  [&](int64_t label) { return label < least || label > most; });
    if (bad == samples->labels.end()) continue;
    damaged(concat("'", files.paths[samples == &all.train ? 1 : 3], "': label ",
                   bad - samples->labels.begin(), " is ", *bad, ", expected ", least, " to ", most,
                   " (data.label_offset = ", least, ", ", all.classes, " classes). ",
                   advice_on_labels(all, options)));
  }
  for (Samples* samples : {&all.train, &all.test}) {
    for (int64_t& label : samples->labels) label -= least;
  }
  all.smallest_label = found_label(all, /*largest=*/false);
  if (all.classes > 1) return;
  damaged(concat("'", files.paths[1], "' and '", files.paths[3], "' hold one class only: all ",
                 "labels are ", least, "; data.classes says how many there are."));
}

template <class T>
std::string digest_of(const std::vector<T>& values) {
  return sha256({{reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)}});
}

/// n samples in turn of the classes: the class's prototype plus normal noise. `first` numbers them
/// through, so that training and test samples differ.
Samples make_split(uint64_t seed, int64_t classes, int64_t first, int64_t n) {
  constexpr int64_t kSide = 28, kPixels = kSide * kSide;
  constexpr double kContrast = 48, kNoise = 60;  // classes overlap little, but in no single pixel
  const RandomStream prototypes(seed, Stream::kSynthetic, 0);
  Samples samples;
  samples.sizes = {n, kSide, kSide};
  samples.pixels.reserve(static_cast<size_t>(n * kPixels));
  for (int64_t i = 0; i < n; ++i) {
    const int64_t label = i % classes;
    const RandomStream noise(seed, Stream::kSynthetic, 1 + static_cast<uint64_t>(first + i));
    for (int64_t p = 0; p < kPixels; ++p) {
      const double prototype = prototypes.uniform(static_cast<uint64_t>(label * kPixels + p)) - 0.5;
      const double value =
          128 + kContrast * prototype + kNoise * noise.normal(static_cast<uint64_t>(p));
      samples.pixels.push_back(static_cast<uint8_t>(std::lround(std::clamp(value, 0.0, 255.0))));
    }
    samples.labels.push_back(label);
  }
  return samples;
}

}  // namespace

int64_t Samples::width() const {
  if (sizes.size() == 3) return sizes[2];
  std::vector<int64_t> sides;  // one channel, before or behind, changes nothing
  std::copy_if(sizes.begin() + 1, sizes.end(), std::back_inserter(sides),
               [](int64_t size) { return size != 1; });
  return sizes.size() == 4 && sides.size() == 2 ? sides[1] : 0;
}

AllSamples read_samples(const Options& options) {
  const DataFiles files = find_data_files(options);
  AllSamples all;
  all.dir = files.dir;
  all.train = read_pair(files, 0, options.data.name, all.digests);
  all.test = read_pair(files, 2, options.data.name, all.digests);
  if (!std::equal(all.train.sizes.begin() + 1, all.train.sizes.end(), all.test.sizes.begin() + 1,
                  all.test.sizes.end())) {
    damaged(concat("'", files.paths[2], "' holds images of ", shape(all.test.sizes, 1),
                   " pixels but '", files.paths[0], "' of ", shape(all.train.sizes, 1),
                   "; expected the same size."));
  }
  number_classes(all, options.data, files);
  return all;
}

AllSamples make_samples(uint64_t seed, const DataOptions& options) {
  constexpr int64_t kTrain = 2000, kTest = 500;
  AllSamples all;
  all.classes = options.classes > 0 ? options.classes : kTenClasses;
  all.train = make_split(seed, all.classes, 0, kTrain);
  all.test = make_split(seed, all.classes, kTrain, kTest);
  for (size_t f = 0; f < all.digests.size(); ++f) {
    const Samples& samples = f < 2 ? all.train : all.test;
    all.digests[f] = f % 2 == 0 ? digest_of(samples.pixels) : digest_of(samples.labels);
  }
  return all;
}

}  // namespace syncbn
