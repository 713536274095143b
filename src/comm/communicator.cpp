#include "comm/communicator.hpp"

#include <algorithm>
#include <sstream>

#include "comm/failure.hpp"
#include "comm/overlap.hpp"

namespace syncbn {
namespace {

/// The first line in which `a` and `b` differ, of both.
std::pair<std::string, std::string> first_difference(const std::string& a, const std::string& b) {
  std::istringstream lines_a(a), lines_b(b);
  for (;;) {
    std::string line_a, line_b;
    const bool more_a = static_cast<bool>(std::getline(lines_a, line_a));
    const bool more_b = static_cast<bool>(std::getline(lines_b, line_b));
    if (!more_a || !more_b || line_a != line_b) {
      return {more_a ? "'" + line_a + "'" : "nothing", more_b ? "'" + line_b + "'" : "nothing"};
    }
  }
}

}  // namespace

void Communicator::wait(at::Device device) {
  DeviceMark now(device);
  now.set();
  wait(now);
}

void agree(Communicator& comm, const std::function<void()>& phase) {
  std::string verdict;  // empty, or the exit code, a space and the message
  try {
    phase();
  } catch (...) {
    const Failure failure = describe(std::current_exception());
    verdict = concat(static_cast<int>(failure.code), " ", failure.message);
  }
  const auto verdicts = comm.gather_text(verdict);
  const auto first = std::find_if(verdicts.begin(), verdicts.end(),
                                  [](const std::string& v) { return !v.empty(); });
  if (first == verdicts.end()) return;
  const bool common = std::count(verdicts.begin(), verdicts.end(), *first) == comm.size();
  const auto code = static_cast<ExitCode>(std::stoi(*first));
  throw UsageError(
      concat(common ? "" : concat("[rank ", first - verdicts.begin(), "/", comm.size(), "] "),
             first->substr(first->find(' ') + 1)),
      code);
}

void agree_same(Communicator& comm, const std::string& text, const std::string& what) {
  const auto texts = comm.gather_text(text);
  std::string ranks, lines;
  for (size_t r = 1; r < texts.size(); ++r) {
    if (texts[r] == texts[0]) continue;
    if (ranks.empty()) {
      const auto [ours, theirs] = first_difference(texts[0], texts[r]);
      lines = concat("rank 0 has ", ours, ", rank ", r, " has ", theirs);
    }
    ranks += concat(ranks.empty() ? "" : ", ", r);
  }
  if (ranks.empty()) return;
  throw UsageError(concat("The ranks disagree about ", what, ": rank ", ranks,
                          " differs from rank 0; ", lines, "."),
                   ExitCode::kDisagree);
}

}  // namespace syncbn
