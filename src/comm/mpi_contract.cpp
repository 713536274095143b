#include <cstring>

#include "comm/contract.hpp"
#include "comm/mpi_communicator.hpp"

namespace syncbn {
namespace {

/// A duplicate of the communicator, so that what ranks say here cannot meet what they move there.
class MpiControl final : public ControlChannel {
 public:
  explicit MpiControl(MPI_Comm comm) {
    mpi_check(MPI_Comm_dup(comm, &comm_), "MPI_Comm_dup");
    mpi_check(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
  }
  ~MpiControl() override {
    if (mpi_usable()) MPI_Comm_free(&comm_);
  }
  MpiControl(const MpiControl&) = delete;
  MpiControl& operator=(const MpiControl&) = delete;

  bool same(uint64_t number) override {
    check_mpi_thread();
    uint64_t most[2] = {number, ~number};  // the largest, and of the complements the smallest's
    mpi_check(MPI_Allreduce(MPI_IN_PLACE, most, 2, MPI_UINT64_T, MPI_MAX, comm_), "MPI_Allreduce");
    return most[0] == ~most[1];
  }

  std::vector<std::string> gather(const std::string& text) override {
    check_mpi_thread();
    constexpr size_t kBytes = 4096;  // what is longer is cut
    std::vector<char> own(kBytes, '\0'), all(kBytes * static_cast<size_t>(size_), '\0');
    std::memcpy(own.data(), text.data(), std::min(text.size(), kBytes - 1));
    mpi_check(MPI_Allgather(own.data(), kBytes, MPI_CHAR, all.data(), kBytes, MPI_CHAR, comm_),
              "MPI_Allgather");
    std::vector<std::string> texts;
    for (size_t begin = 0; begin < all.size(); begin += kBytes) {
      texts.emplace_back(all.data() + begin);
    }
    return texts;
  }

  int world_rank() const override {
    int rank = 0;
    mpi_check(MPI_Comm_rank(MPI_COMM_WORLD, &rank), "MPI_Comm_rank");
    return rank;
  }

  bool whole_job() const override {
    int all = 0;
    mpi_check(MPI_Comm_size(MPI_COMM_WORLD, &all), "MPI_Comm_size");
    return size_ == all;
  }

 private:
  MPI_Comm comm_ = MPI_COMM_NULL;
  int size_ = 1;
};

}  // namespace

std::shared_ptr<Contract> make_mpi_contract(MPI_Comm comm, std::shared_ptr<CheckRule> rule) {
  int size = 1;
  mpi_check(MPI_Comm_size(comm, &size), "MPI_Comm_size");
  if (size == 1) return nullptr;
  return std::make_shared<Contract>(std::make_shared<MpiControl>(comm), std::move(rule));
}

}  // namespace syncbn
