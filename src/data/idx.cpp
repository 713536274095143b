#include "data/idx.hpp"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <string_view>

#include "base/digest.hpp"
#include "base/file.hpp"

namespace syncbn {
namespace {

constexpr uint64_t kMaxBytes = uint64_t{1} << 30;  // twenty times MNIST, and within zlib's 32 bits
constexpr int kMostDims = 4;

[[noreturn]] void damaged(const std::string& name, const std::string& what) {
  throw Error(concat("'", name, "' is damaged: ", what, "."), ExitCode::kInputDamaged);
}

bool is_gzip(const uint8_t* data, size_t size) {
  return size >= 2 && data[0] == 0x1f && data[1] == 0x8b;
}

/// The bytes of a plain file.
class PlainSource {
 public:
  PlainSource(const uint8_t* data, size_t size, const std::string& name)
      : data_(data), size_(size), name_(name) {}

  /// Copies the next n bytes, or as many as there are; returns how many.
  size_t read(uint8_t* out, size_t n) {
    n = std::min(n, size_ - position_);
    if (n > 0) std::memcpy(out, data_ + position_, n);
    position_ += n;
    return n;
  }
  /// Refuses what cannot hold exactly `total` bytes, before anything of that size is allocated.
  void expect_total(uint64_t total) const {
    if (total != size_) {
      damaged(name_, concat("its header announces ", total, " bytes in all, found ", size_));
    }
  }
  void expect_end() const {}  // expect_total has seen to it

 private:
  const uint8_t* data_;
  size_t size_, position_ = 0;
  const std::string& name_;
};

/// The bytes inside a gzip file (RFC 1952): its members one after the other, and zeros behind the
/// last as gunzip allows them (tapes and block devices pad with zeros). Never inflates more than is
/// asked for.
class GzipSource {
 public:
  GzipSource(const uint8_t* data, size_t size, const std::string& name) : size_(size), name_(name) {
    stream_.next_in = const_cast<Bytef*>(data);  // zlib's interface; it only reads
    stream_.avail_in = static_cast<uInt>(size);
    constexpr int kGzipOnly = 16 + MAX_WBITS;
    SYNCBN_CHECK(inflateInit2(&stream_, kGzipOnly) == Z_OK, "zlib does not start.");
  }
  ~GzipSource() { inflateEnd(&stream_); }
  GzipSource(const GzipSource&) = delete;
  GzipSource& operator=(const GzipSource&) = delete;

  size_t read(uint8_t* out, size_t n) {
    stream_.next_out = out;
    stream_.avail_out = static_cast<uInt>(n);
    while (stream_.avail_out > 0 && !ended_) {
      const int status = inflate(&stream_, Z_NO_FLUSH);
      if (status == Z_STREAM_END) {  // length and CRC are right
        end_member();
      } else if (status == Z_BUF_ERROR) {  // no input left
        damaged(name_, concat("its gzip stream is cut after ", size_, " bytes"));
      } else if (status != Z_OK) {
        damaged(name_, concat("its gzip stream is broken near byte ", size_ - stream_.avail_in,
                              " (", stream_.msg != nullptr ? stream_.msg : zError(status), ")"));
      }
    }
    stream_.next_out = nullptr;  // `out` is the caller's, and may end before the stream does
    const size_t got = n - stream_.avail_out;
    total_ += got;
    return got;
  }
  void expect_total(uint64_t total) const {
    constexpr uint64_t kDeflateLimit = 1032;  // 258 bytes from two bits: no stream does better
    if (total > size_ * kDeflateLimit) {
      damaged(name_, concat("its header announces ", total, " bytes in all, and ", size_,
                            " bytes of gzip cannot hold as many"));
    }
  }
  /// Also reads on to the last member's trailer, so that zlib compares length and CRC.
  void expect_end() {
    const uint64_t announced = total_;
    uint8_t extra = 0;
    if (read(&extra, 1) != 0) {
      damaged(name_, concat("its header announces ", announced,
                            " bytes in all, but its gzip stream goes on after them"));
    }
  }

 private:
  /// Goes on with the member that follows, if one does.
  void end_member() {
    const uint8_t *const rest = stream_.next_in, *const end = rest + stream_.avail_in;
    ended_ = std::all_of(rest, end, [](uint8_t byte) { return byte == 0; });
    if (ended_) return;
    if (!is_gzip(rest, stream_.avail_in)) {
      damaged(name_, concat(stream_.avail_in,
                            " bytes follow its gzip stream, expected none, zeros or another gzip "
                            "stream"));
    }
    SYNCBN_CHECK(inflateReset(&stream_) == Z_OK, "zlib does not start again.");
  }

  z_stream stream_{};
  size_t size_;
  const std::string& name_;
  uint64_t total_ = 0;  // bytes read
  bool ended_ = false;
};

uint32_t big_endian(const uint8_t* b) {
  return (uint32_t{b[0]} << 24) | (uint32_t{b[1]} << 16) | (uint32_t{b[2]} << 8) | uint32_t{b[3]};
}

template <class Source>
IdxArray parse_header(Source& source, const std::string& name) {
  std::array<uint8_t, 4> magic{};
  const size_t found = source.read(magic.data(), magic.size());
  if (found < magic.size())
    damaged(name, concat("expected a 4-byte magic, found ", found, " bytes"));
  const int zeros = (magic[0] << 8) | magic[1], type = magic[2], dims = magic[3];
  if (zeros != 0) {
    damaged(name, concat("expected an IDX file, which begins with the bytes 0 0, found ",
                         int{magic[0]}, " ", int{magic[1]}));
  }
  IdxArray array;
  array.type = static_cast<IdxType>(type);
  if (array.type != IdxType::kUnsignedByte && array.type != IdxType::kInt) {
    damaged(name,
            concat("expected element type 8 (unsigned byte) or 12 (32-bit integer), found ", type));
  }
  if (dims < 1 || dims > kMostDims) {
    damaged(name, concat("expected 1 to ", kMostDims, " dimensions, found ", dims));
  }

  std::array<uint8_t, 4 * kMostDims> bytes{};
  const auto expected = 4 * static_cast<size_t>(dims);
  const size_t got = source.read(bytes.data(), expected);
  if (got < expected) {
    damaged(name, concat("expected a header of ", 4 + expected, " bytes, found ", 4 + got));
  }
  for (size_t d = 0; d < expected; d += 4) array.sizes.push_back(big_endian(bytes.data() + d));
  return array;
}

/// Bytes of all elements, without overflow and below the cap.
uint64_t payload_bytes(const IdxArray& array, const std::string& name) {
  std::string shape;
  uint64_t product = array.element_bytes();
  bool fits = true;
  for (const int64_t size : array.sizes) {
    shape += concat(shape.empty() ? "" : " x ", size);
    fits = fits && !__builtin_mul_overflow(product, static_cast<uint64_t>(size), &product);
  }
  if (array.element_bytes() != 1) shape += concat(" x ", array.element_bytes());
  if (!fits || product > kMaxBytes) {
    damaged(name, concat("its header announces ", shape, " bytes, expected at most ", kMaxBytes));
  }
  return product;
}

template <class Source>
IdxArray parse(Source& source, const std::string& name) {
  IdxArray array = parse_header(source, name);
  const uint64_t payload = payload_bytes(array, name);
  const uint64_t expected = 4 + 4 * array.sizes.size() + payload;
  source.expect_total(expected);
  array.bytes.resize(payload);
  const size_t found = source.read(array.bytes.data(), payload);
  if (found < payload) {
    damaged(name, concat("its header announces ", expected, " bytes in all, found ",
                         expected - payload + found));
  }
  source.expect_end();
  return array;
}

}  // namespace

int32_t IdxArray::int_at(size_t element) const {
  return static_cast<int32_t>(big_endian(bytes.data() + element * sizeof(int32_t)));
}

IdxArray parse_idx(const uint8_t* data, size_t size, const std::string& name) {
  if (size > kMaxBytes) damaged(name, concat(size, " bytes, expected at most ", kMaxBytes));
  if (is_gzip(data, size)) {
    GzipSource source(data, size, name);
    return parse(source, name);
  }
  PlainSource source(data, size, name);
  return parse(source, name);
}

IdxArray read_idx(const std::string& path) {
  const FileBytes bytes = read_regular_file(path, "data file", kMaxBytes, ExitCode::kInputDamaged);
  return parse_idx(bytes.data.get(), bytes.size, path);
}

std::string idx_digest(const IdxArray& array) {
  std::vector<uint8_t> header{0, 0, static_cast<uint8_t>(array.type),
                              static_cast<uint8_t>(array.sizes.size())};
  for (const int64_t size : array.sizes) {
    for (int shift = 24; shift >= 0; shift -= 8) {
      header.push_back(static_cast<uint8_t>(static_cast<uint64_t>(size) >> shift));
    }
  }
  const auto view = [](const std::vector<uint8_t>& bytes) {
    return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  return sha256({view(header), view(array.bytes)});
}

}  // namespace syncbn
