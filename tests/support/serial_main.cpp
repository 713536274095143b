// The main program of tests that run in one process, without MPI.
#include <gtest/gtest.h>

#include "support/strict.hpp"

namespace {

class Strict : public testing::EmptyTestEventListener {
  void OnTestEnd(const testing::TestInfo& info) override { syncbn::refuse_skip(info); }
};

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  testing::UnitTest::GetInstance()->listeners().Append(new Strict);
  return syncbn::strict_verdict(RUN_ALL_TESTS());
}
