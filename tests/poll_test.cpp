// The deadline of asynchronous calls, against fake ones.
#include "comm/poll.hpp"

#include <gtest/gtest.h>

#include <limits>

namespace syncbn {
namespace {

constexpr auto kSomeTime = std::chrono::milliseconds(100);

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
  EXPECT_NO_THROW(poll_until([] { return true; }, 1e-9, "call"));
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

TEST(Poll, WithoutALimitItWaitsOn) {
  const auto start = std::chrono::steady_clock::now();
  const auto done = [&] { return std::chrono::steady_clock::now() - start > kSomeTime; };
  EXPECT_NO_THROW(poll_until(done, 0, "call"));
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

/// A transport and a device beside it, which do as they are told at their n-th question.
struct FakeDevice {
  static constexpr int kNever = std::numeric_limits<int>::max();
  int ready_at = 1, fails_at = kNever, done_at = 1;
  int asked = 0, asked_done = 0;

  void wait(double limit_s) {
    const auto ready = [this] {
      if (++asked >= fails_at) throw Error("a peer is gone", ExitCode::kSystem);
      return asked >= ready_at;
    };
    poll_through(
        ready, [this] { return ++asked_done >= done_at; }, limit_s, "the GPU's work");
  }
  ExitCode code_of_wait(double limit_s) {
    try {
      wait(limit_s);
    } catch (const Error& error) {
      return error.code();
    }
    return ExitCode::kOk;
  }
};

TEST(PollThrough, ReturnsWhenTheDeviceIsDone) {
  FakeDevice device;
  device.done_at = 7;
  EXPECT_EQ(device.code_of_wait(10), ExitCode::kOk);
  EXPECT_EQ(device.asked_done, 7);
  EXPECT_EQ(device.asked, 7) << "not asked for errors each time";
}

TEST(PollThrough, AnErrorEndsTheWaitForADeviceThatIsNeverDone) {
  FakeDevice device;
  device.done_at = FakeDevice::kNever;
  device.fails_at = 5;
  EXPECT_EQ(device.code_of_wait(10), ExitCode::kSystem);
  EXPECT_EQ(device.asked, 5);
}

TEST(PollThrough, AnErrorIsNotHiddenByADeviceThatIsDone) {
  FakeDevice device;
  device.fails_at = 1;
  EXPECT_EQ(device.code_of_wait(10), ExitCode::kSystem);
}

TEST(PollThrough, ACallInProgressIsWaitedForAndTheDeviceNotAsked) {
  FakeDevice device;
  device.ready_at = 9;
  EXPECT_EQ(device.code_of_wait(10), ExitCode::kOk);
  EXPECT_EQ(device.asked, 9);
  EXPECT_EQ(device.asked_done, 1);
}

TEST(PollThrough, ADeviceThatIsNeverDoneMeetsTheDeadline) {
  FakeDevice device;
  device.done_at = FakeDevice::kNever;
  EXPECT_EQ(device.code_of_wait(0.2), ExitCode::kWatchdog);
}

}  // namespace
}  // namespace syncbn
