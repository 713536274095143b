// The deadline of asynchronous calls, against fake ones.
#include "comm/poll.hpp"

#include <gtest/gtest.h>

namespace syncbn {
namespace {

double seconds_of(const std::function<void()>& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

TEST(Poll, AsksOnceWhenDoneAtOnce) {
  int asked = 0;
  poll_until([&] { return ++asked == 1; }, 10, "call");
  EXPECT_EQ(asked, 1);
}

TEST(Poll, WaitsForALateAnswer) {
  int asked = 0;
  poll_until([&] { return ++asked == 20; }, 10, "call");
  EXPECT_EQ(asked, 20);
}

TEST(Poll, ADoneCallIsTakenEvenWithoutTime) {
  EXPECT_NO_THROW(poll_until([] { return true; }, 0, "call"));
}

TEST(Poll, ThrowsAtTheDeadlineNamingTheCall) {
  const double took = seconds_of([] {
    try {
      poll_until([] { return false; }, 0.2, "ncclCommInitRankConfig");
      ADD_FAILURE() << "no deadline";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kWatchdog);
      EXPECT_NE(std::string(error.what()).find("ncclCommInitRankConfig"), std::string::npos);
    }
  });
  EXPECT_GE(took, 0.2);
  EXPECT_LT(took, 3);
}

TEST(Poll, PassesAnErrorOnAtOnce) {
  int asked = 0;
  const auto failing = [&]() -> bool {
    if (++asked == 3) throw Error("remote error", ExitCode::kSystem);
    return false;
  };
  try {
    poll_until(failing, 10, "call");
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kSystem);
  }
  EXPECT_EQ(asked, 3);
}

}  // namespace
}  // namespace syncbn
