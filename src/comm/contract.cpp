#include "comm/contract.hpp"

#include <algorithm>
#include <cstring>
#include <sstream>

#include "base/error.hpp"

namespace syncbn {
namespace {

uint64_t mix(uint64_t hash, uint64_t word) {
  constexpr uint64_t kOdd =
      0x9E3779B97F4A7C15;  // 2^64 / the golden ratio: spreads every bit upward
  hash = (hash ^ word) * kOdd;
  return hash ^ (hash >> 32);
}

/// What a rank tells of itself when the hashes differ.
struct Account {
  int rank = 0;                    // of the job
  uint64_t number = 0;             // of its last call
  uint64_t hash = 0;               // of all its calls
  std::vector<std::string> calls;  // the last of them

  uint64_t first() const { return number + 1 - calls.size(); }
  std::string call(uint64_t n) const { return n > number ? "nothing" : calls[n - first()]; }
};

std::string encode(const Account& account) {
  std::string text = concat(account.rank, ' ', account.number, ' ', account.hash);
  for (const std::string& call : account.calls) text += '\n' + call;
  return text;
}

Account decode(const std::string& text) {
  Account account;
  std::istringstream in(text);
  in >> account.rank >> account.number >> account.hash;
  std::string line;
  std::getline(in, line);
  while (std::getline(in, line)) account.calls.push_back(line);
  return account;
}

/// The first call, of those that both still know, in which they differ; 0: none.
uint64_t first_difference(const Account& a, const Account& b) {
  const uint64_t end = std::max(a.number, b.number);
  for (uint64_t n = std::max(a.first(), b.first()); n <= end; ++n) {
    if (a.call(n) != b.call(n)) return n;
  }
  return 0;
}

/// "rank 1 calls A, then B, then C", from call n on.
std::string story(const Account& account, uint64_t n) {
  constexpr uint64_t kMost = 3;
  std::string text = concat("rank ", account.rank, " calls ", account.call(n));
  const uint64_t end = std::min(account.number, n + kMost - 1);
  while (++n <= end) text += ", then " + account.call(n);
  return text;
}

/// agreed: the last call that was compared.
std::string sentence(const std::vector<Account>& ranks, uint64_t agreed) {
  const Account& first = ranks.front();
  std::string others;
  const Account* other = nullptr;
  for (const Account& account : ranks) {
    if (account.number == first.number && account.hash == first.hash) continue;
    others += concat(other == nullptr ? "" : ", ", account.rank);
    if (other == nullptr) other = &account;
  }
  SYNCBN_CHECK(other != nullptr, "The ranks' hashes of their collectives differ, and then do not.");
  const uint64_t n = first_difference(first, *other);
  const std::string scope = concat(" of a communicator of ", ranks.size(), " ranks (rank ", others,
                                   " differs from rank ", first.rank, "): ");
  const std::string too_late =
      "; results since are wrong, and run.check = full finds it before data move";
  if (n == 0) {
    return concat("The ranks disagree about a collective between number ", agreed, " and ",
                  first.number, scope, "by now both call ", first.calls.back(), too_late, ".");
  }
  const bool now = n == std::max(first.number, other->number);
  return concat("The ranks disagree about collective ", n, scope, story(first, n), "; ",
                story(*other, n), now ? "; no data have moved in it" : too_late,
                ". Every rank must call the same collectives in the same order, with as many "
                "elements of the same dtype.");
}

}  // namespace

uint64_t Contract::fold(uint64_t hash, const CollectiveCall& call) {
  hash = mix(hash, static_cast<uint64_t>(call.kind) | static_cast<uint64_t>(call.dtype) << 8 |
                       static_cast<uint64_t>(static_cast<uint32_t>(call.detail)) << 16);
  hash = mix(hash, static_cast<uint64_t>(call.elements));
  // The text and not its address, which differs between processes.
  const char* text = call.purpose.what;
  size_t left = std::strlen(text);
  hash = mix(hash, left << 32 | static_cast<uint32_t>(call.purpose.layer));
  while (left > 0) {
    uint64_t word = 0;
    const size_t bytes = std::min(left, sizeof word);
    std::memcpy(&word, text, bytes);
    hash = mix(hash, word);
    text += bytes;
    left -= bytes;
  }
  return hash;
}

void Contract::compare() {
  if (!channel_->same(mix(hash_, number_))) report();
  agreed_ = number_;
}

void Contract::report() {
  Account own{channel_->world_rank(), number_, hash_, {}};
  const uint64_t known = std::min(number_, kRecent);
  for (uint64_t n = number_ - known + 1; n <= number_; ++n) {
    own.calls.push_back(describe(recent_[n % kRecent]));
  }
  std::vector<Account> ranks;
  for (const std::string& text : channel_->gather(encode(own))) ranks.push_back(decode(text));
  const std::string message = sentence(ranks, agreed_);
  if (channel_->whole_job()) throw UsageError(message, ExitCode::kDisagree);
  throw Error(message, ExitCode::kDisagree);
}

}  // namespace syncbn
