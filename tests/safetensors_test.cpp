// Reading safetensors: what is written comes back, and nothing else than the format is taken,
// however the bytes were harmed.
#include "train/safetensors.hpp"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <chrono>
#include <cstring>
#include <random>

#include "base/error.hpp"
#include "support/memory_limit.hpp"
#include "support/options_support.hpp"

namespace syncbn {
namespace {

/// A file of this header, its length and payload.
std::string file_of(const std::string& header, const std::string& payload = "") {
  const uint64_t length = header.size();
  std::string bytes(sizeof length, '\0');
  std::memcpy(bytes.data(), &length, sizeof length);
  return bytes + header + payload;
}

std::string tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   const std::string& offsets) {
  return "\"" + name + R"(":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" +
         offsets + "}";
}

NamedTensors some_tensors() {
  return {{"0.weight", torch::arange(6, torch::kFloat).view({2, 3})},
          {"none", torch::empty({0, 4}, torch::kDouble)},
          {"1.running_mean", torch::tensor({0.1, 0.2, 0.3}, torch::kDouble)},
          {"1.num_batches_tracked", torch::tensor(int64_t{1} << 40)},
          {"last", torch::empty({3, 0}, torch::kLong)},
          {"bytes", torch::tensor({1, 255, 0}, torch::kByte)}};
}

void expect_equal(const NamedTensors& found, const NamedTensors& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].first, expected[i].first);
    EXPECT_EQ(found[i].second.scalar_type(), expected[i].second.scalar_type());
    EXPECT_TRUE(at::equal(found[i].second, expected[i].second)) << found[i].first;
  }
}

TEST(ParseSafetensors, GivesBackWhatWasWritten) {
  const std::map<std::string, std::string> texts = {
      {"format", "pt"}, {"config", "[train]\nbatch = 64\n\"quoted\"\\ é"}, {"empty", ""}};
  const TensorFile file = parse_safetensors(to_safetensors(some_tensors(), texts), "a");
  expect_equal(file.tensors, some_tensors());
  EXPECT_EQ(file.metadata, texts);
}

TEST(ParseSafetensors, TensorsOwnTheirMemory) {
  std::string bytes = to_safetensors(some_tensors(), {});
  const TensorFile file = parse_safetensors(bytes, "a");
  std::fill(bytes.begin(), bytes.end(), '\xff');
  expect_equal(file.tensors, some_tensors());
}

TEST(ParseSafetensors, TakesAHeaderInAnotherOrderThanTheBytes) {
  const std::string header =
      "{" + tensor("b", "U8", "[1]", "[1,2]") + "," + tensor("a", "U8", "[1]", "[0,1]") + "}  \n";
  const TensorFile file = parse_safetensors(file_of(header, "xy"), "a");
  ASSERT_EQ(file.tensors.size(), 2U);
  EXPECT_EQ(file.tensors[0].first, "a");
  EXPECT_EQ(file.tensors[1].second.item<int64_t>(), 'y');
  EXPECT_TRUE(parse_safetensors(file_of("{}"), "a").tensors.empty());
}

TEST(ParseSafetensors, RefusesWhatIsNotTheFormat) {
  const std::string one = tensor("a", "U8", "[1]", "[0,1]");
  struct Case {
    std::string header, payload, part;
  };
  const std::vector<Case> cases = {
      {"", "", "does not begin"},
      {" {}", "", "does not begin"},
      {"\xef\xbb\xbf{}", "", "does not begin"},
      {"{", "", "no JSON"},
      {"{}}", "", "no JSON"},
      {"{} x", "", "no JSON"},
      {std::string("{}\0", 3), "", "no JSON"},
      {"{\"\xff\":{}}", "", "no JSON"},
      {"{" + one + ",}", "x", "no JSON"},
      {"{" + one + "," + one + "}", "x", "names 'a' twice"},
      {R"({"__metadata__":{"a":"1","a":"2"}})", "", "names 'a' twice in the metadata"},
      {R"({"__metadata__":{},"__metadata__":{}})", "", "names '__metadata__' twice"},
      {R"({"__metadata__":{"a":1}})", "", "has a number in the metadata"},
      {R"({"__metadata__":{"a":{}}})", "", "has an object in the metadata"},
      {R"({"__metadata__":{"a":["b"]}})", "", "has a list in the metadata"},
      {R"({"__metadata__":"a"})", "", "has a text for the metadata"},
      {R"({"a":1})", "", "has a number for tensor 'a'"},
      {R"({"a":null})", "", "has null for tensor 'a'"},
      {R"({"a":[]})", "", "has a list for tensor 'a'"},
      {R"({"a":{}})", "", "does not give"},
      {R"({"a":{"dtype":"U8","shape":[1]}})", "x", "does not give"},
      {R"({"a":{"dtype":"U8","shape":[1],"dtype":"U8"}})", "x", "names 'dtype' twice"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"b":1}})", "x", "unknown key 'b'"},
      {R"({"a":{"dtype":["U8"],"shape":[1],"data_offsets":[0,1]}})", "x", "has a list"},
      {R"({"a":{"dtype":"U8","shape":1,"data_offsets":[0,1]}})", "x", "has a number"},
      {R"({"a":{"dtype":"U8","shape":"1","data_offsets":[0,1]}})", "x", "has a text"},
      {R"({"a":{"dtype":"U8","shape":[[1]],"data_offsets":[0,1]}})", "x", "has a list"},
      {R"({"a":{"dtype":"U8","shape":[{}],"data_offsets":[0,1]}})", "x", "has an object"},
      {"{" + tensor("a", "U8", "[true]", "[0,1]") + "}", "x", "has a boolean"},
      {"{" + tensor("a", "U8", "[-1]", "[0,1]") + "}", "x", "a negative number"},
      {"{" + tensor("a", "U8", "[1.0]", "[0,1]") + "}", "x", "not whole"},
      {"{" + tensor("a", "U8", "[18446744073709551616]", "[0,1]") + "}", "x", "above 2^64"},
      {"{" + tensor("a", "U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]") + "}", "x", "more than 8"},
      {"{" + tensor("a", "I16", "[1]", "[0,2]") + "}", "xx", "has dtype 'I16'"},
      {"{" + tensor("a", "U8", "[1]", "[0]") + "}", "x", "1 offsets"},
      {"{" + tensor("a", "U8", "[1]", "[0,1,1]") + "}", "x", "3 offsets"},
      {"{" + tensor("a", "U8", "[1]", "[1,2]") + "}", "xx", "begins at byte 1, expected 0"},
      {"{" + one + "," + tensor("b", "U8", "[1]", "[0,1]") + "}", "x", "begins at byte 0"},
      {"{" + one + "," + tensor("b", "U8", "[1]", "[2,3]") + "}", "xyz", "begins at byte 2"},
      {"{" + tensor("a", "U8", "[1]", "[0,2]") + "}", "x", "ends at byte 2"},
      {"{" + tensor("a", "U8", "[0]", "[0,18446744073709551615]") + "}", "", "ends at byte 1844"},
      {"{" + one + "," + tensor("b", "U8", "[0]", "[1,0]") + "}", "x", "ends at byte 0"},
      {"{" + tensor("a", "U8", "[2]", "[0,1]") + "}", "x", "takes 2 bytes"},
      {"{" + tensor("a", "F64", "[1]", "[0,4]") + "}", "xxxx", "takes 8 bytes"},
      {"{" + tensor("a", "U8", "[4294967296,4294967296]", "[0,0]") + "}", "", "too large"},
      {"{" + tensor("a", "F64", "[2305843009213693952]", "[0,0]") + "}", "", "too large"},
      {"{" + tensor("a", "U8", "[0,4294967296,4294967296]", "[0,0]") + "}", "", "too large"},
      {"{" + tensor("a", "U8", "[9223372036854775808]", "[0,0]") + "}", "", "too large"},
      {"{" + one + "}", "xy", "end at byte 1"},
      {"{}", "x", "end at byte 0"},
  };
  for (const auto& [header, payload, part] : cases) {
    SCOPED_TRACE(header);
    const std::string bytes = file_of(header, payload);
    expect_error([&] { parse_safetensors(bytes, "the file"); }, ExitCode::kInputDamaged,
                 {"'the file' is damaged", part});
  }
}

TEST(ParseSafetensors, RefusesALengthThatCannotBe) {
  const auto refused = [](const std::string& bytes, const std::string& part) {
    expect_error([&] { parse_safetensors(bytes, "a"); }, ExitCode::kInputDamaged, {"'a'", part});
  };
  const std::string whole = file_of("{}");
  for (size_t n = 0; n < 8; ++n) refused(whole.substr(0, n), concat("it has ", n, " bytes"));
  refused(whole.substr(0, 9), "its header takes 2 bytes, found 1");
  std::string huge = whole;
  std::memset(huge.data(), 0xff, 8);
  refused(huge, "expected at most 16777216");
  refused(std::string(8, '\0') + "{}", "does not begin");
}

TEST(ParseSafetensors, HasNoDepthAndNoSizeToRunOutOf) {
  for (const std::string unit : {"[", "{\"a\":", "{\"a\":{\"dtype\":", "{\"a\":{\"shape\":["}) {
    std::string header = "{\"x\":";
    while (header.size() < (size_t{1} << 20)) header += unit;
    EXPECT_THROW(parse_safetensors(file_of(header), "a"), Error) << unit;
  }
}

TEST(WriteSafetensors, RefusesWhatCouldNotBeRead) {
  const at::Tensor one = torch::ones({1});
  EXPECT_THROW(to_safetensors({{"a", one}, {"a", one}}, {}), Error);
  EXPECT_THROW(to_safetensors({{"__metadata__", one}}, {}), Error);
  EXPECT_THROW(to_safetensors({{"a", one.view({1, 1, 1, 1, 1, 1, 1, 1, 1})}}, {}), Error);
  EXPECT_THROW(to_safetensors({}, {{"a", std::string(size_t{17} << 20, 'x')}}), Error);
  const std::string largest(size_t{1} << 20, '\n');  // a configuration file of the largest size
  EXPECT_EQ(parse_safetensors(to_safetensors({}, {{"a", largest}}), "a").metadata["a"], largest);
  const std::string latin = to_safetensors({}, {{"folder", "caf\xe9"}});
  EXPECT_EQ(parse_safetensors(latin, "a").metadata["folder"], "caf\xef\xbf\xbd");
}

// ---- fuzzing: mutations of good headers by pieces that mean something, and by single bytes ----

class Mutator {
 public:
  explicit Mutator(uint32_t seed) : random_(seed) {}
  size_t below(size_t n) { return random_() % n; }

  std::string mutate(std::string text) {
    static const std::vector<std::string> kPieces = {"{",
                                                     "}",
                                                     "[",
                                                     "]",
                                                     ",",
                                                     ":",
                                                     "\"",
                                                     "\\",
                                                     "0",
                                                     "-1",
                                                     "1e9",
                                                     "18446744073709551615",
                                                     "9223372036854775807",
                                                     "4294967296",
                                                     "null",
                                                     "true",
                                                     "\"dtype\"",
                                                     "\"shape\":[",
                                                     "\"data_offsets\":[0,4]",
                                                     "\"F32\"",
                                                     "\"__metadata__\":{",
                                                     "\xff",
                                                     "\\u0000",
                                                     "[[[[",
                                                     "[0,0,0,0,0,0,0,0,0",
                                                     "[2,3],",
                                                     ",\"a\":{\"dtype\":\"U8\",\"shape\":[0],"};
    for (size_t n = 1 + below(3); n > 0; --n) {
      const size_t place = below(text.size() + 1), length = below(text.size() - place + 1);
      const size_t least = std::min(length, below(12));
      switch (below(5)) {
        case 0:
          text.insert(place, kPieces[below(kPieces.size())]);
          break;
        case 1:
          text.erase(place, least);
          break;
        case 2:
          text.insert(below(text.size() + 1), text.substr(place, least));
          break;
        case 3:
          text.replace(place, least, kPieces[below(kPieces.size())]);
          break;
        default:
          if (place < text.size()) text[place] = static_cast<char>(below(256));
      }
    }
    return text;
  }

 private:
  std::mt19937 random_;
};

TEST(ParseSafetensors, SurvivesMutatedFiles) {
  const std::string whole = to_safetensors(some_tensors(), {{"format", "pt"}});
  uint64_t length = 0;
  std::memcpy(&length, whole.data(), sizeof length);
  const std::string header = whole.substr(8, length), payload = whole.substr(8 + length);
  Mutator mutator(20240607);
  constexpr int kCases = 100'000;
  int refused = 0;
  const auto start = std::chrono::steady_clock::now();
  const MemoryLimit limit(rlim_t{16} << 20);  // a file is about 1,000 bytes
  for (int i = 0; i < kCases; ++i) {
    // One in four: the length and the payload are harmed too.
    std::string bytes = file_of(mutator.mutate(header), payload);
    if (i % 4 == 0) bytes = mutator.mutate(bytes);
    try {
      const TensorFile file = parse_safetensors(bytes, "a");
      size_t sum = 0;
      for (const auto& [name, value] : file.tensors) sum += value.nbytes();
      ASSERT_LE(sum, bytes.size()) << bytes;
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ExitCode::kInputDamaged) << error.what();
      ++refused;
    }
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_LT(seconds.count(), 10);
  EXPECT_GT(refused, kCases / 2) << "the mutations harm too little";
  EXPECT_LT(refused, kCases) << "no mutation is harmless: the good file is refused too";
}

}  // namespace
}  // namespace syncbn
