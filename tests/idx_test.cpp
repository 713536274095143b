#include "data/idx.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <numeric>

#include "base/error.hpp"
#include "base/random.hpp"
#include "support/idx_files.hpp"
#include "support/memory_limit.hpp"

namespace syncbn {
namespace {

constexpr size_t kMiB = size_t{1} << 20;
constexpr uint32_t kHuge = 0xFFFFFFFFu;

IdxArray parse(const Bytes& bytes) {
  return parse_idx(bytes.data(), bytes.size(), "some-file");
}

/// `action` must throw Error(code) whose message holds all of `parts`.
void expect_error(const std::function<void()>& action, ExitCode code,
                  const std::vector<std::string>& parts) {
  try {
    action();
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    for (const std::string& part : parts) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
          << "'" << part << "' is not in: " << error.what();
    }
  }
}

void expect_damaged(const Bytes& bytes, std::vector<std::string> parts) {
  parts.emplace_back("some-file");
  expect_error([&] { parse(bytes); }, ExitCode::kInputDamaged, parts);
}

/// 5 images of 3 × 4, pixels 0, 1, 2, …
Bytes images() {
  Bytes pixels(60);
  std::iota(pixels.begin(), pixels.end(), uint8_t{0});
  return idx_file({5, 3, 4}, pixels);
}

Bytes operator+(const Bytes& a, const Bytes& b) {
  Bytes both = a;
  both.insert(both.end(), b.begin(), b.end());
  return both;
}

Bytes cut(Bytes bytes, size_t size) {
  bytes.resize(size);
  return bytes;
}

TEST(Idx, ReadsPlainAndGzip) {
  for (const Bytes& bytes : {images(), gzip(images())}) {
    const IdxArray array = parse(bytes);
    EXPECT_EQ(array.sizes, (std::vector<int64_t>{5, 3, 4}));
    EXPECT_EQ(array.type, IdxType::kUnsignedByte);
    ASSERT_EQ(array.bytes.size(), 60u);
    for (size_t i = 0; i < 60; ++i) EXPECT_EQ(array.bytes[i], i);
  }
  const IdxArray labels = parse(idx_file({3}, {7, 0, 255}));
  EXPECT_EQ(labels.sizes, (std::vector<int64_t>{3}));
  EXPECT_EQ(labels.bytes, (Bytes{7, 0, 255}));
  EXPECT_TRUE(parse(idx_file({0}, {})).bytes.empty());
}

TEST(Idx, ReadsOneToFourDimensions) {
  EXPECT_EQ(parse(idx_file({2, 3}, Bytes(6))).sizes, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(parse(idx_file({2, 1, 1, 3}, Bytes(6))).sizes, (std::vector<int64_t>{2, 1, 1, 3}));
}

/// 2 rows of 3 big-endian integers.
Bytes integers() {
  Bytes bytes = idx_file({2, 3}, {0, 0, 0, 7, 0,   0,   1,   0,   255, 255, 255, 255,  //
                                  0, 1, 0, 0, 127, 255, 255, 255, 0,   0,   0,   0});
  bytes[2] = 0x0C;
  return bytes;
}

TEST(Idx, ReadsIntegers) {
  for (const Bytes& bytes : {integers(), gzip(integers())}) {
    const IdxArray array = parse(bytes);
    EXPECT_EQ(array.sizes, (std::vector<int64_t>{2, 3}));
    EXPECT_EQ(array.type, IdxType::kInt);
    const std::vector<int32_t> expected = {7, 256, -1, 65536, 2147483647, 0};
    for (size_t i = 0; i < 6; ++i) EXPECT_EQ(array.int_at(i), expected[i]);
  }
  expect_damaged(cut(integers(), 35), {"announces 36 bytes in all, found 35"});
  Bytes huge = idx_file({1u << 29}, {});
  huge[2] = 0x0C;
  expect_damaged(huge, {"536870912 x 4 bytes, expected at most 1073741824"});
}

TEST(Idx, ReadsAFile) {
  const TempFolder folder;
  EXPECT_EQ(read_idx(folder.write("plain", images())).bytes, parse(images()).bytes);
  EXPECT_EQ(read_idx(folder.write("gzip", gzip(images()))).bytes, parse(images()).bytes);
}

// The expected value is sha256sum's, of printf '\0\0\10\1\0\0\0\3abc' and the 1,000-byte file
// below.
TEST(Idx, DigestIsThatOfThePlainFile) {
  EXPECT_EQ(idx_digest(parse(idx_file({3}, {'a', 'b', 'c'}))),
            "379a7afbfd9f0de0a36184463dd209c260f4582821ea2e5e4c40c7eb713dbda2");
  EXPECT_EQ(idx_digest(parse(gzip(idx_file({4, 3, 82}, Bytes(984, 'x'))))),
            "2c78dba6ce19f9667b171f0199940094cb6c0ddc99c2a830d1c26ee04927e7bc");
  Bytes ints = idx_file({1}, {0, 0, 0, 'a'});
  ints[2] = 0x0C;
  EXPECT_EQ(idx_digest(parse(ints)),
            "50f057a10d6b9053d46505ca47939a0d9314193d89d210125d8f54a8bc841376");
}

TEST(Idx, EveryCutIsFound) {
  const Bytes whole = images();
  for (size_t size = 0; size < 16; ++size) expect_damaged(cut(whole, size), {"found"});
  for (size_t size = 16; size < whole.size(); ++size) {
    expect_damaged(cut(whole, size), {"announces 76 bytes in all, found " + std::to_string(size)});
  }
}

TEST(Idx, RandomCutsOfALargeFileAreFound) {
  const Bytes whole = idx_file({100, 28, 28}, Bytes(78400, 1));
  const RandomStream random(1, Stream::kSynthetic, 0);
  for (uint64_t i = 0; i < 50; ++i) {
    const size_t size = 16 + random.below(78400, i);
    expect_damaged(cut(whole, size),
                   {"announces 78416 bytes in all, found " + std::to_string(size)});
  }
}

TEST(Idx, EveryCutOfAGzipFileIsFound) {
  const Bytes whole = gzip(images());
  for (size_t size = 0; size < whole.size(); ++size) expect_damaged(cut(whole, size), {});
  for (size_t size = 18; size < whole.size(); ++size) {
    expect_damaged(cut(whole, size), {"cut after " + std::to_string(size) + " bytes"});
  }
}

// A few bits mean nothing (time stamp, system, padding); all others must be noticed.
TEST(Idx, NoFlippedBitOfAGzipFileChangesTheData) {
  const Bytes whole = gzip(images());
  const IdxArray expected = parse(whole);
  size_t noticed = 0;
  for (size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    Bytes flipped = whole;
    flipped[bit / 8] = static_cast<uint8_t>(flipped[bit / 8] ^ (1u << (bit % 8)));
    try {
      const IdxArray array = parse(flipped);
      EXPECT_EQ(array.bytes, expected.bytes) << "bit " << bit;
      EXPECT_EQ(array.sizes, expected.sizes) << "bit " << bit;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kInputDamaged) << error.what();
      ++noticed;
    }
  }
  EXPECT_GE(noticed,
            8 * (whole.size() - 7));  // of the header 6 bytes mean nothing, and the padding
}

TEST(Idx, WrongHeaders) {
  const auto with_byte = [](size_t at, uint8_t value) {
    Bytes bytes = images();
    bytes[at] = value;
    return bytes;
  };
  expect_damaged(with_byte(0, 1), {"begins with the bytes 0 0", "found 1 0"});
  expect_damaged(with_byte(1, 9), {"begins with the bytes 0 0", "found 0 9"});
  expect_damaged(with_byte(2, 0x0D), {"type 8", "found 13"});
  for (const int dims : {0, 5, 255}) {
    expect_damaged(with_byte(3, static_cast<uint8_t>(dims)),
                   {"1 to 4 dimensions", "found " + std::to_string(dims)});
  }
  expect_damaged({'<', 'h', 't', 'm', 'l', '>'}, {"begins with the bytes 0 0", "found 60 104"});
}

TEST(Idx, TrailingBytes) {
  Bytes longer = images();
  longer.push_back(0);
  expect_damaged(longer, {"announces 76 bytes in all, found 77"});
  expect_damaged(gzip(longer), {"announces 76 bytes", "goes on after them"});
  expect_damaged(gzip(images()) + Bytes{1}, {"1 bytes follow its gzip stream"});
}

// ---- what gunzip accepts ----

enum GzipFlag : uint8_t { kText = 1, kHeaderCrc = 2, kExtra = 4, kName = 8, kComment = 16 };

/// A gzip member with header fields, by RFC 1952, section 2.3. `damage` is added to the header's
/// CRC.
Bytes member(const Bytes& plain, int flags, uint16_t damage = 0) {
  Bytes head = {0x1f, 0x8b, 8, static_cast<uint8_t>(flags), 1, 2, 3, 4, 0, 3};
  if ((flags & kExtra) != 0) head = head + Bytes{4, 0, 'A', 'B', 0, 0};
  if ((flags & kName) != 0) head = head + Bytes{'a', '.', 'b', 0};
  if ((flags & kComment) != 0) head = head + Bytes{'s', 'o', 0};
  if ((flags & kHeaderCrc) != 0) {
    const auto crc = crc32(0, head.data(), static_cast<uInt>(head.size())) + damage;
    head = head + Bytes{static_cast<uint8_t>(crc), static_cast<uint8_t>(crc >> 8)};
  }
  const Bytes whole = gzip(plain);
  return head + Bytes(whole.begin() + 10, whole.end());
}

Bytes part(const Bytes& bytes, size_t begin, size_t end) {
  return {bytes.begin() + static_cast<int64_t>(begin), bytes.begin() + static_cast<int64_t>(end)};
}

struct GzipCase {
  const char* name;
  Bytes bytes;
};

std::vector<GzipCase> gzip_cases() {
  const Bytes plain = images(), one = gzip(plain), nothing = gzip({});
  const Bytes two = gzip(part(plain, 0, 10)) + gzip(part(plain, 10, plain.size()));
  Bytes bad_crc = two;
  bad_crc[two.size() - 8] ^= 1;
  Bytes bad_empty = one + nothing;
  bad_empty[bad_empty.size() - 8] ^= 1;
  return {{"one member", one},
          {"two members", two},
          {"a member of its own for each byte",
           [&] {
             Bytes all;
             for (size_t i = 0; i < plain.size(); ++i) all = all + gzip(part(plain, i, i + 1));
             return all;
           }()},
          {"empty members", nothing + one + nothing + nothing},
          {"one zero", one + Bytes{0}},
          {"512 zeros", one + Bytes(512)},
          {"zeros after two members", two + Bytes(7)},
          {"zeros, then a byte", one + Bytes(512) + Bytes{1}},
          {"zeros, then a member", one + Bytes(3) + nothing},
          {"zeros between members",
           gzip(part(plain, 0, 10)) + Bytes(3) + gzip(part(plain, 10, plain.size()))},
          {"a byte", one + Bytes{1}},
          {"two bytes", one + Bytes{'x', 'y'}},
          {"text", one + Bytes{'m', 'o', 'r', 'e'}},
          {"half a magic", one + Bytes{0x1f}},
          {"a magic", one + Bytes{0x1f, 0x8b}},
          {"a header", one + part(one, 0, 10)},
          {"a member cut", one + part(nothing, 0, nothing.size() - 1)},
          {"a member of another method", one + Bytes{0x1f, 0x8b, 7, 0, 0, 0, 0, 0, 0, 3, 3, 0}},
          {"wrong CRC of the second", bad_crc},
          {"wrong CRC of an empty one", bad_empty},
          {"text flag", member(plain, kText)},
          {"name", member(plain, kName)},
          {"comment", member(plain, kComment)},
          {"extra field", member(plain, kExtra)},
          {"header CRC", member(plain, kHeaderCrc)},
          {"wrong header CRC", member(plain, kHeaderCrc, 1)},
          {"all fields", member(plain, kText | kHeaderCrc | kExtra | kName | kComment)},
          {"flag 32", member(plain, 32)},
          {"flag 64", member(plain, 64)},
          {"flag 128", member(plain, 128)},
          {"fields in the second",
           gzip(part(plain, 0, 20)) + member(part(plain, 20, plain.size()), kName | kHeaderCrc)}};
}

// gunzip itself is the oracle; a status of 2 is its warning of what it leaves out.
TEST(Idx, ReadsWhatGunzipAccepts) {
  const TempFolder folder;
  size_t accepted = 0;
  for (const GzipCase& one : gzip_cases()) {
    const std::string path = folder.write("case.gz", one.bytes);
    const bool reads = std::system(("gunzip -t <'" + path + "' 2>/dev/null").c_str()) == 0;
    accepted += reads ? 1 : 0;
    if (!reads) {
      SCOPED_TRACE(one.name);
      expect_damaged(one.bytes, {"gzip stream"});
      continue;
    }
    try {
      EXPECT_EQ(parse(one.bytes).bytes, parse(images()).bytes) << one.name;
    } catch (const Error& error) {
      ADD_FAILURE() << one.name << ": " << error.what();
    }
  }
  EXPECT_EQ(accepted, 14u);  // gunzip is there, and refuses as well
}

TEST(Idx, SeveralMembersThatHoldTooMuch) {
  expect_damaged(gzip(images()) + gzip({0}), {"announces 76 bytes", "goes on after them"});
  expect_damaged(gzip(images()) + gzip({}) + gzip(images()), {"goes on after them"});
}

TEST(Idx, AGzipFileThatHoldsLessThanItAnnounces) {
  expect_damaged(gzip(cut(images(), 70)), {"announces 76 bytes in all, found 70"});
  expect_damaged(gzip(cut(images(), 15)), {"header of 16 bytes, found 15"});
}

TEST(Idx, HugeSizesAreRefusedBeforeAnythingIsAllocated) {
  const MemoryLimit limit(64 * kMiB);
  const std::vector<std::vector<uint32_t>> shapes = {
      {kHuge, kHuge, kHuge},                                // overflows 64 bits
      {1u << 31, 1u << 31, 4},                              // is 0 modulo 2^64
      {kHuge, kHuge, 1},       {kHuge}, {1000000, 28, 28},  // would be allowed, if it were there
  };
  for (const auto& shape : shapes) {
    for (const size_t payload : {size_t{0}, size_t{100}}) {
      const Bytes bytes = idx_file(shape, Bytes(payload));
      expect_damaged(bytes, {"header announces"});
      expect_damaged(gzip(bytes), {"header announces"});
    }
  }
}

TEST(Idx, ABombStopsAtTheAnnouncedSize) {
  // 1 GiB of zeros: 1,024 times the same deflated MiB, after an honest start.
  Bytes bomb = gzip(idx_file({10, 28, 28}, Bytes(7840)), Z_FULL_FLUSH);
  const Bytes mebibyte = gzip(Bytes(kMiB), Z_FULL_FLUSH, -MAX_WBITS);
  for (int i = 0; i < 1024; ++i) bomb.insert(bomb.end(), mebibyte.begin(), mebibyte.end());
  const MemoryLimit limit(16 * kMiB);
  const auto start = std::chrono::steady_clock::now();
  expect_damaged(bomb, {"announces 7856 bytes", "goes on after them"});
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  EXPECT_LT(elapsed.count(), 0.1);  // inflating it all takes seconds
}

TEST(Idx, WhatIsNoRegularFile) {
  const TempFolder folder;
  const std::string fifo = (folder.path() / "fifo").string();
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  const auto start = std::chrono::steady_clock::now();
  for (const std::string& path : {folder.path().string(), fifo, std::string("/dev/zero")}) {
    expect_error([&] { read_idx(path); }, ExitCode::kInputMissing, {path, "regular file"});
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  EXPECT_LT(elapsed.count(), 1.0);
  const std::string missing = (folder.path() / "missing").string();
  expect_error([&] { read_idx(missing); }, ExitCode::kInputMissing,
               {missing, "No such file or directory"});
}

TEST(Idx, AHugeSparseFileIsNotReadIn) {
  const TempFolder folder;
  const std::string path = folder.write("sparse", {});
  std::filesystem::resize_file(path, uint64_t{1} << 40);
  const MemoryLimit limit(64 * kMiB);
  expect_error([&] { read_idx(path); }, ExitCode::kInputDamaged, {path, "1099511627776 bytes"});
}

}  // namespace
}  // namespace syncbn
