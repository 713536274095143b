#include "train/safetensors.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "base/error.hpp"
#include "base/options_text.hpp"

namespace syncbn {
namespace {

using Json = nlohmann::json;

constexpr size_t kAlignment = 8;  // the header is padded so that the tensors' bytes are aligned
// Room for a configuration file of the largest size (1 MiB), each of its bytes escaped, and for
// 100,000 tensors; and little enough to be parsed before anything is known about the file.
constexpr uint64_t kLongestHeader = uint64_t{16} << 20;
constexpr size_t kMostDimensions = 8;
constexpr const char* kMetadata = "__metadata__";

struct Dtype {
  const char* name;
  at::ScalarType type;
};
constexpr std::array<Dtype, 6> kDtypes = {{{"F32", at::kFloat},
                                           {"F64", at::kDouble},
                                           {"F16", at::kHalf},
                                           {"BF16", at::kBFloat16},
                                           {"I64", at::kLong},
                                           {"U8", at::kByte}}};

const char* dtype_name(at::ScalarType type) {
  for (const Dtype& dtype : kDtypes) {
    if (dtype.type == type) return dtype.name;
  }
  SYNCBN_CHECK(false, "no safetensors name for ", type);
  return "";
}

std::optional<at::ScalarType> dtype_of(const std::string& name) {
  for (const Dtype& dtype : kDtypes) {
    if (name == dtype.name) return dtype.type;
  }
  return std::nullopt;
}

/// What the header says of one tensor.
struct Entry {
  std::string name, dtype;
  std::vector<uint64_t> shape, offsets;
};

struct Header {
  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;
};

/// Takes the header's JSON piece by piece and refuses the first that is not of the format, so that
/// neither depth nor size can grow beyond it. (A parsed document would already have taken both.)
class HeaderReader : public Json::json_sax_t {
 public:
  HeaderReader(const std::string& file, Header& header) : file_(file), header_(header) {}

  bool start_object(size_t /*size*/) override {
    if (depth_ >= kInner) refuse("an object");
    ++depth_;
    keys_.clear();
    return true;
  }
  bool key(std::string& text) override {
    const std::string& key = text;  // const, or std::quoted were the better match below
    std::set<std::string>& seen = depth_ == kTop ? names_ : keys_;
    if (!seen.insert(key).second) damaged(concat("names ", quoted(key), " twice", where()));
    key_ = key;
    if (depth_ == kTop) {
      named_ = true;
      in_metadata_ = key == kMetadata;
      if (!in_metadata_) header_.entries.push_back({key, {}, {}, {}});
    } else if (!in_metadata_ && key != "dtype" && key != "shape" && key != "data_offsets") {
      damaged(concat("has an unknown key ", quoted(key), where()));
    }
    return true;
  }
  bool string(std::string& value) override {
    if (depth_ == kInner && in_metadata_) {
      header_.metadata[key_] = value;
    } else if (depth_ == kInner && key_ == "dtype") {
      header_.entries.back().dtype = value;
    } else {
      refuse("a text");
    }
    return true;
  }
  bool start_array(size_t /*size*/) override {
    if (depth_ != kInner || in_metadata_ || key_ == "dtype") refuse("a list");
    ++depth_;
    return true;
  }
  bool number_unsigned(uint64_t value) override {
    if (depth_ != kList) refuse("a number");
    Entry& entry = header_.entries.back();
    std::vector<uint64_t>& list = key_ == "shape" ? entry.shape : entry.offsets;
    if (list.size() == kMostDimensions) refuse(concat("a list of more than ", kMostDimensions));
    list.push_back(value);
    return true;
  }
  bool end_object() override {
    if (depth_ == kInner && !in_metadata_ && keys_.size() != 3) {
      damaged(concat("does not give dtype, shape and data_offsets", where()));
    }
    --depth_;
    return true;
  }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool null() override { refuse("null"); }
  bool boolean(bool /*value*/) override { refuse("a boolean"); }
  bool number_integer(int64_t /*value*/) override { refuse("a negative number"); }
  bool number_float(double /*value*/, const std::string& /*text*/) override {
    refuse("a number that is not whole or above 2^64");
  }
  bool binary(Json::binary_t& /*value*/) override { refuse("bytes"); }
  bool parse_error(size_t position, const std::string& /*token*/,
                   const Json::exception& /*error*/) override {
    damaged(concat("is no JSON at byte ", position, where()));
  }

 private:
  enum Depth { kOutside, kTop, kInner, kList };

  [[noreturn]] void damaged(const std::string& what) const {
    throw Error(concat("'", file_, "' is damaged: its header ", what, "."),
                ExitCode::kInputDamaged);
  }
  [[noreturn]] void refuse(const std::string& what) const {
    damaged(concat("has ", what, where(), ", where the format has none"));
  }
  std::string where() const {
    if (depth_ == kOutside || !named_) return " at its beginning";
    if (in_metadata_) return depth_ == kTop ? " for the metadata" : " in the metadata";
    const std::string& name = header_.entries.back().name;
    return concat(" for tensor ", quoted(name));
  }

  const std::string& file_;
  Header& header_;
  int depth_ = kOutside;
  bool named_ = false, in_metadata_ = false;
  std::string key_;                     // the last one
  std::set<std::string> names_, keys_;  // of the whole header, of the object inside it
};

/// The tensor of one entry. Its bytes must follow those before it, at `begin` of the payload.
at::Tensor make_tensor(const Entry& entry, uint64_t begin, std::string_view payload,
                       const std::string& file) {
  const auto damaged = [&](const auto&... what) {
    throw Error(concat("'", file, "' is damaged: tensor ", quoted(entry.name), ' ', what..., '.'),
                ExitCode::kInputDamaged);
  };
  const auto dtype = dtype_of(entry.dtype);
  if (!dtype)
    damaged("has dtype ", quoted(entry.dtype), ", expected F32, F64, F16, BF16, I64 or U8");
  if (entry.offsets.size() != 2) {
    damaged("has ", entry.offsets.size(), " offsets, expected its beginning and its end");
  }
  const uint64_t end = entry.offsets[1];
  if (entry.offsets[0] != begin) {
    damaged("begins at byte ", entry.offsets[0], ", expected ", begin, ", without hole or overlap");
  }
  if (end < begin || end > payload.size()) {
    damaged("ends at byte ", end, ", expected ", begin, " to ", payload.size());
  }
  // Sizes of 0 count as 1 in `extent`, for LibTorch multiplies strides so.
  uint64_t extent = c10::elementSize(*dtype), size = extent;
  for (const uint64_t length : entry.shape) {
    constexpr auto kLargest = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    const uint64_t factor = std::max(length, uint64_t{1});
    if (factor > kLargest / extent) damaged("has a shape too large for any file");
    extent *= factor;
    size *= length;
  }
  if (size != end - begin) {
    damaged("takes ", size, " bytes by its dtype and shape, found ", end - begin);
  }
  const std::vector<int64_t> shape(entry.shape.begin(), entry.shape.end());
  at::Tensor tensor = at::empty(shape, *dtype);
  if (size > 0) std::memcpy(tensor.mutable_data_ptr(), payload.data() + begin, size);
  return tensor;
}

}  // namespace

std::string to_safetensors(const NamedTensors& tensors,
                           const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header;
  header[kMetadata] = metadata;
  std::string payload;
  for (const auto& [name, value] : tensors) {
    SYNCBN_CHECK(!header.contains(name), "tensor ", quoted(name), " is there twice");
    SYNCBN_CHECK(value.dim() <= static_cast<int64_t>(kMostDimensions), "tensor ", quoted(name));
    const at::Tensor host = value.cpu().contiguous();
    const size_t begin = payload.size();
    payload.append(static_cast<const char*>(host.const_data_ptr()),
                   static_cast<size_t>(host.nbytes()));
    header[name] = {{"dtype", dtype_name(host.scalar_type())},
                    {"shape", host.sizes().vec()},
                    {"data_offsets", {begin, payload.size()}}};
  }
  std::string text = header.dump(-1, ' ', false, Json::error_handler_t::replace);
  text.append((kAlignment - text.size() % kAlignment) % kAlignment, ' ');
  SYNCBN_CHECK(text.size() <= kLongestHeader, "names and texts take ", text.size(), " bytes");
  const uint64_t length = text.size();
  std::string file(sizeof length, '\0');
  std::memcpy(file.data(), &length, sizeof length);  // x86-64 and aarch64 are little-endian
  file.reserve(sizeof length + text.size() + payload.size());
  return file.append(text).append(payload);
}

TensorFile parse_safetensors(std::string_view bytes, const std::string& name) {
  const auto damaged = [&](const auto&... what) {
    throw Error(concat("'", name, "' is damaged: ", what..., '.'), ExitCode::kInputDamaged);
  };
  uint64_t length = 0;
  if (bytes.size() < sizeof length) {
    damaged("it has ", bytes.size(), " bytes, expected 8 for the length of its header");
  }
  std::memcpy(&length, bytes.data(), sizeof length);
  const uint64_t room = bytes.size() - sizeof length;
  if (length > kLongestHeader) {
    damaged("its header's length is ", length, ", expected at most ", kLongestHeader);
  }
  if (length > room) damaged("its header takes ", length, " bytes, found ", room);
  const std::string_view text = bytes.substr(sizeof length, length);
  const std::string_view payload = bytes.substr(sizeof length + length);
  if (text.empty() || text.front() != '{') damaged("its header does not begin with '{'");

  const size_t zero = text.find('\0');  // where the parser would stop, content with what it has
  if (zero != text.npos) damaged("its header is no JSON at byte ", zero);

  Header header;
  HeaderReader reader(name, header);
  Json::sax_parse(text.begin(), text.end(), &reader);
  // The format lets the header name tensors in another order than that of their bytes.
  std::stable_sort(header.entries.begin(), header.entries.end(),
                   [](const Entry& a, const Entry& b) { return a.offsets < b.offsets; });
  TensorFile file;
  uint64_t begin = 0;
  for (const Entry& entry : header.entries) {
    file.tensors.emplace_back(entry.name, make_tensor(entry, begin, payload, name));
    begin = entry.offsets[1];
  }
  if (begin != payload.size()) {
    damaged("its tensors end at byte ", begin, " of their part, which has ", payload.size(),
            " bytes");
  }
  file.metadata = std::move(header.metadata);
  return file;
}

}  // namespace syncbn
