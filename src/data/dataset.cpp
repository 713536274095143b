#include "data/dataset.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <sstream>

#include "base/random.hpp"
#include "data/samples.hpp"

namespace syncbn {
namespace {

struct Published {
  const char* name;
  std::array<const char*, 4>
      digests;  // SHA-256 of the uncompressed files, in the order of kDataFiles
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
/// What all ranks must agree on before the data is mapped.
struct Manifest {
  struct Shape {
    int64_t samples = 0, bytes_per_sample = 0, width = 0;
  };
  std::array<std::string, 4> digests;  // SHA-256, in the order of kDataFiles
  Shape train, test;
  int64_t classes = 0, smallest_label = 0;

  explicit Manifest(const std::string& text) {
    std::istringstream in(text);
    std::string word;
    for (std::string& digest : digests) in >> word >> digest;
    for (Shape* shape : {&train, &test}) {
      in >> word >> shape->samples >> shape->bytes_per_sample >> shape->width;
    }
    in >> word >> classes >> word >> smallest_label;
    SYNCBN_CHECK(!in.fail(), "The manifest of the data is '", text, "'.");
  }
  static std::string write(const AllSamples& all) {
    std::string text;
    for (size_t f = 0; f < 4; ++f) text += concat(kDataFiles[f], " ", all.digests[f], "\n");
    const auto shape = [&](const char* name, const Samples& samples) {
      text += concat(name, " ", samples.size(), " ", samples.bytes_per_sample(), " ",
                     samples.width(), "\n");
    };
    shape("train", all.train);
    shape("test", all.test);
    return text + concat("classes ", all.classes, "\nsmallest_label ", all.smallest_label, "\n");
  }
};

/// Collective. Node leaders get the samples and compare what they got; every rank learns the
/// shapes.
Manifest load_samples(Runtime& runtime, const Options& options, AllSamples& all) {
  const bool leader = runtime.local_rank() == 0;
  std::string mine;
  agree(*runtime.world(), {"loading the data set"}, [&] {
    if (!leader) return;
    all = options.data.name == "synthetic"
              ? make_samples(seed_of(options, Stream::kSynthetic), options.data)
              : read_samples(options);
    mine = Manifest::write(all);
  });
  const std::string first =
      runtime.world()->gather_text(mine, {"the data set"}).front();  // rank 0 leads its node
  if (!leader) mine = first;
  agree_same(*runtime.world(), mine,
             "the data set (SHA-256 of each file; samples, bytes and width of training and test; "
             "classes)");
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

/// Collective over the node. The split of all samples of one purpose; `samples` on its leader.
Split share_split(Runtime& runtime, const Manifest::Shape& shape, const Samples& samples) {
  const int64_t n = shape.samples;
  Split split;
  split.images = shared_tensor(runtime, {n, shape.bytes_per_sample}, at::kByte);
  split.labels = shared_tensor(runtime, {n}, at::kLong);
  split.width = shape.width;
  if (runtime.local_rank() == 0) {
    std::copy(samples.pixels.begin(), samples.pixels.end(), split.images.data_ptr<uint8_t>());
    std::copy(samples.labels.begin(), samples.labels.end(), split.labels.data_ptr<int64_t>());
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
      if (digests[f] != set.digests[f])
        unknown += concat(unknown.empty() ? "" : ", ", kDataFiles[f]);
    }
  }
  return concat("Not the published ", name, ": the SHA-256 of ", unknown,
                " differs. Training goes on with the files as they are.");
}

/// What is worth saying about data whose digests nobody has published.
std::string describe_labels(const Options& options, const Manifest& manifest) {
  if (options.data.name != "idx" || manifest.smallest_label == 0) return "";
  return concat("No label is below ", options.data.label_offset + manifest.smallest_label,
                ", so that some outputs stand for no class; data.label_offset = ",
                options.data.label_offset + manifest.smallest_label, " leaves them out.");
}

}  // namespace

Dataset load_dataset(Runtime& runtime, const Options& options) {
  Dataset data;
  data.name = options.data.name;
  const bool published = std::any_of(kPublished.begin(), kPublished.end(),
                                     [&](const Published& set) { return set.name == data.name; });
  AllSamples all;  // filled on node leaders only
  const Manifest manifest = load_samples(runtime, options, all);
  data.classes = manifest.classes;
  data.dir = runtime.world()->gather_text(all.dir, {"the data folder"}).front();
  if (data.name != "synthetic") {
    for (size_t f = 0; f < 4; ++f) data.digests[kDataFiles[f]] = manifest.digests[f];
  }
  data.note = published ? describe_digests(data.name, manifest.digests)
                        : describe_labels(options, manifest);
  data.train = share_split(runtime, manifest.train, all.train);
  apply_limit(options, data.train);
  data.test = share_split(runtime, manifest.test, all.test);
  const auto fraction = validation_fraction(options.data);
  data.validation = fraction ? take_fraction(options, *fraction, data.train) : data.test;
  const PixelScale* standard = published_standard(data.name);
  data.standard = standard != nullptr
                      ? *standard
                      : computed_standard(data.train.images.const_data_ptr<uint8_t>(),
                                          data.train.pixels(), data.train.rows);
  return data;
}

}  // namespace syncbn
