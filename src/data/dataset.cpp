#include "data/dataset.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <sstream>

#include "base/random.hpp"
#include "data/idx.hpp"

namespace syncbn {
namespace {

namespace fs = std::filesystem;

// The order everywhere below: training images, training labels, test images, test labels.
constexpr std::array<const char*, 4> kFiles = {"train-images-idx3-ubyte", "train-labels-idx1-ubyte",
                                               "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"};
using Arrays = std::array<IdxArray, 4>;

struct Published {
  const char* name;
  std::array<const char*, 4> digests;  // SHA-256 of the uncompressed files, in the order of kFiles
};
constexpr std::array<Published, 2> kPublished = {{
    {"mnist",
     {"ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
      "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
      "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
      "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"}},
    {"fashion-mnist",
     {"c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
      "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
      "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
      "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"}},
}};
constexpr const char* kDebianFashionMnist = "/usr/share/datasets/fashion-mnist";

[[noreturn]] void damaged(const std::string& message) {
  throw Error(message, ExitCode::kInputDamaged);
}

std::string data_folder(const DataOptions& options) {
  if (!options.dir.empty()) return options.dir;
  const char* named = std::getenv("SYNCBN_MNIST_DIR");
  if (options.name == "mnist" && named != nullptr && *named != '\0') return named;
  const std::string own = "data/" + options.name;
  const bool debian = options.name == "fashion-mnist" && !fs::exists(own);
  return debian && fs::exists(kDebianFashionMnist) ? kDebianFashionMnist : own;
}

std::string find_file(const DataOptions& options, const std::string& folder,
                      const std::string& file) {
  for (const char* suffix : {"", ".gz"}) {
    const fs::path path = fs::path(folder) / (file + suffix);
    std::error_code error;
    if (fs::exists(path, error)) return path.string();
  }
  const bool mnist = options.name == "mnist";
  throw Error(
      concat("Data set ", options.name, ": neither '", file, "' nor '", file, ".gz' is in '",
             folder, "'. ",
             mnist ? "Fetch the files with launch/fetch_mnist.sh"
                   : "Install Debian's package dataset-fashion-mnist",
             ", or name their folder with --data.dir", mnist ? " or SYNCBN_MNIST_DIR." : "."),
      ExitCode::kInputMissing);
}

/// Images and labels of one purpose must fit together.
void check_pair(const IdxArray& images, const IdxArray& labels, const std::string& images_name,
                const std::string& labels_name) {
  if (images.sizes.size() != 3) {
    damaged(concat("'", images_name, "': expected 3 dimensions (images), found ",
                   images.sizes.size(), "."));
  }
  if (labels.sizes.size() != 1) {
    damaged(concat("'", labels_name, "': expected 1 dimension (labels), found ",
                   labels.sizes.size(), "."));
  }
  if (images.bytes.empty()) {
    damaged(concat("'", images_name, "' holds no images: its sizes are ", images.sizes[0], " x ",
                   images.sizes[1], " x ", images.sizes[2], "."));
  }
  if (images.sizes[0] != labels.sizes[0]) {
    damaged(concat("'", images_name, "' holds ", images.sizes[0], " images but '", labels_name,
                   "' holds ", labels.sizes[0], " labels; expected as many labels as images."));
  }
  const auto bad = std::find_if(labels.bytes.begin(), labels.bytes.end(),
                                [](uint8_t label) { return label >= kClasses; });
  if (bad != labels.bytes.end()) {
    damaged(concat("'", labels_name, "': label ", bad - labels.bytes.begin(), " is ", int{*bad},
                   ", expected 0 to ", kClasses - 1, "."));
  }
}

Arrays read_files(const DataOptions& options) {
  const std::string folder = data_folder(options);
  Arrays arrays;
  std::array<std::string, 4> paths;
  for (size_t f = 0; f < 4; ++f) {
    paths[f] = find_file(options, folder, kFiles[f]);
    arrays[f] = read_idx(paths[f]);
  }
  check_pair(arrays[0], arrays[1], paths[0], paths[1]);
  check_pair(arrays[2], arrays[3], paths[2], paths[3]);
  const auto &train = arrays[0].sizes, &test = arrays[2].sizes;
  if (train[1] != test[1] || train[2] != test[2]) {
    damaged(concat("'", paths[2], "' holds images of ", test[1], " x ", test[2], " pixels but '",
                   paths[0], "' of ", train[1], " x ", train[2], "; expected the same size."));
  }
  return arrays;
}

/// n samples in turn of the 10 classes: the class's prototype plus normal noise. `first` numbers
/// them through, so that training and test samples differ.
void make_samples(uint64_t seed, uint64_t first, int64_t n, IdxArray& images, IdxArray& labels) {
  constexpr int64_t kSide = 28, kPixels = kSide * kSide;
  constexpr double kContrast = 48, kNoise = 60;  // classes overlap little, but in no single pixel
  const RandomStream prototypes(seed, Stream::kSynthetic, 0);
  images = {{n, kSide, kSide}, {}};
  labels = {{n}, {}};
  images.bytes.reserve(static_cast<size_t>(n * kPixels));
  for (int64_t i = 0; i < n; ++i) {
    const int64_t label = i % kClasses;
    const RandomStream noise(seed, Stream::kSynthetic, 1 + first + static_cast<uint64_t>(i));
    for (int64_t p = 0; p < kPixels; ++p) {
      const double prototype = prototypes.uniform(static_cast<uint64_t>(label * kPixels + p)) - 0.5;
      const double value =
          128 + kContrast * prototype + kNoise * noise.normal(static_cast<uint64_t>(p));
      images.bytes.push_back(static_cast<uint8_t>(std::lround(std::clamp(value, 0.0, 255.0))));
    }
    labels.bytes.push_back(static_cast<uint8_t>(label));
  }
}

Arrays make_synthetic(uint64_t seed) {
  constexpr int64_t kTrain = 2000, kTest = 500;
  Arrays arrays;
  make_samples(seed, 0, kTrain, arrays[0], arrays[1]);
  make_samples(seed, kTrain, kTest, arrays[2], arrays[3]);
  return arrays;
}

/// What all ranks must agree on before the data is mapped: one line per array, in the order of
/// kFiles.
struct Manifest {
  std::array<std::string, 4> digests;                             // SHA-256
  std::array<int64_t, 4> samples{}, bytes_per_sample{}, width{};  // of labels: no width

  explicit Manifest(const std::string& text) {
    std::istringstream in(text);
    std::string file;
    for (size_t f = 0; f < 4; ++f) {
      in >> file >> digests[f] >> samples[f] >> bytes_per_sample[f] >> width[f];
    }
    SYNCBN_CHECK(!in.fail(), "The manifest of the data is '", text, "'.");
  }
  static std::string write(const Arrays& arrays) {
    std::string text;
    for (size_t f = 0; f < 4; ++f) {
      const auto samples = static_cast<size_t>(arrays[f].sizes[0]);
      text += concat(kFiles[f], " ", idx_digest(arrays[f]), " ", samples, " ",
                     arrays[f].bytes.size() / samples, " ", arrays[f].sizes.back(), "\n");
    }
    return text;
  }
};

/// Collective. Node leaders make the arrays and compare what they made; every rank learns the
/// shapes.
Manifest load_arrays(Runtime& runtime, const Options& options, Arrays& arrays) {
  const bool leader = runtime.local_rank() == 0;
  std::string mine;
  agree(*runtime.world(), {"loading the data set"}, [&] {
    if (!leader) return;
    arrays = options.data.name == "synthetic" ? make_synthetic(seed_of(options, Stream::kSynthetic))
                                              : read_files(options.data);
    mine = Manifest::write(arrays);
  });
  const std::string first =
      runtime.world()->gather_text(mine, {"the data set"}).front();  // rank 0 leads its node
  if (!leader) mine = first;
  agree_same(*runtime.world(), mine,
             "the data set (file, SHA-256, samples, bytes and width of each)");
  return Manifest(mine);
}

/// Collective over the node. A tensor in memory that the node's ranks share; the leader fills it.
at::Tensor shared_tensor(Runtime& runtime, at::IntArrayRef sizes, at::ScalarType dtype) {
  const int64_t count = c10::multiply_integers(sizes);
  auto memory = runtime.node_shared_bytes(static_cast<size_t>(count) * c10::elementSize(dtype));
  void* data = memory.get();
  return at::from_blob(
      data, sizes, [memory](void*) {}, at::TensorOptions().dtype(dtype));
}

/// Collective over the node. The split of all stored samples of one images array and its labels.
Split share_split(Runtime& runtime, const Manifest& manifest, const Arrays& arrays, size_t images) {
  const size_t labels = images + 1;
  const int64_t n = manifest.samples[images];
  Split split;
  split.images = shared_tensor(runtime, {n, manifest.bytes_per_sample[images]}, at::kByte);
  split.labels = shared_tensor(runtime, {n}, at::kLong);
  split.width = manifest.width[images];
  if (runtime.local_rank() == 0) {
    std::copy(arrays[images].bytes.begin(), arrays[images].bytes.end(),
              split.images.data_ptr<uint8_t>());
    std::copy(arrays[labels].bytes.begin(), arrays[labels].bytes.end(),
              split.labels.data_ptr<int64_t>());
  }
  runtime.node_barrier();
  split.rows.resize(static_cast<size_t>(n));
  std::iota(split.rows.begin(), split.rows.end(), int64_t{0});
  return split;
}

/// The first data.limit samples.
void apply_limit(const Options& options, Split& train) {
  const int64_t limit = options.data.limit;
  if (limit > train.size()) {
    throw option_error(options, "data.limit",
                       concat("expected 1 to ", train.size(), " (the training samples of ",
                              options.data.name, "), or 0 for all, found ", limit));
  }
  if (limit > 0) train.rows.resize(static_cast<size_t>(limit));
}

/// Moves a seeded fraction of the training samples to a split of their own, both in storage order.
Split take_fraction(const Options& options, double fraction, Split& train) {
  const int64_t n = train.size();
  const int64_t taken = std::llround(fraction * static_cast<double>(n));
  if (taken == 0 || taken == n) {
    throw option_error(options, "data.validation",
                       concat("expected a fraction that leaves a sample for each, found ",
                              options.data.validation, ", which leaves ", n - taken, " of ", n,
                              " samples for training and ", taken, " for validation"));
  }
  const auto order =
      RandomStream(seed_of(options, Stream::kSplit), Stream::kSplit, 0).permutation(n);
  Split validation{train.images, train.labels, train.width, {}};
  std::vector<bool> chosen(static_cast<size_t>(n));
  for (int64_t i = 0; i < taken; ++i)
    chosen[static_cast<size_t>(order[static_cast<size_t>(i)])] = true;
  std::vector<int64_t> kept;
  for (size_t i = 0; i < chosen.size(); ++i) {
    (chosen[i] ? validation.rows : kept).push_back(train.rows[i]);
  }
  train.rows = std::move(kept);
  return validation;
}

/// Empty if the digests are those of the published set `name`; else what they are.
std::string describe_digests(const std::string& name, const std::array<std::string, 4>& digests) {
  std::string unknown;
  for (const Published& set : kPublished) {
    const bool same = std::equal(digests.begin(), digests.end(), set.digests.begin());
    if (same && set.name == name) return "";
    if (same) return concat("The files given as ", name, " are those of ", set.name, ".");
    if (set.name != name) continue;
    for (size_t f = 0; f < 4; ++f) {
      if (digests[f] != set.digests[f]) unknown += concat(unknown.empty() ? "" : ", ", kFiles[f]);
    }
  }
  return concat("Not the published ", name, ": the SHA-256 of ", unknown,
                " differs. Training goes on with the files as they are.");
}

}  // namespace

Dataset load_dataset(Runtime& runtime, const Options& options) {
  Dataset data;
  data.name = options.data.name;
  const bool published = std::any_of(kPublished.begin(), kPublished.end(),
                                     [&](const Published& set) { return set.name == data.name; });
  Arrays arrays;  // filled on node leaders only
  const Manifest manifest = load_arrays(runtime, options, arrays);
  if (published) {
    for (size_t f = 0; f < 4; ++f) data.digests[kFiles[f]] = manifest.digests[f];
    data.note = describe_digests(data.name, manifest.digests);
  }
  data.train = share_split(runtime, manifest, arrays, 0);
  apply_limit(options, data.train);
  data.test = share_split(runtime, manifest, arrays, 2);
  const auto fraction = validation_fraction(options.data);
  data.validation = fraction ? take_fraction(options, *fraction, data.train) : data.test;
  return data;
}

}  // namespace syncbn
