// Any bytes as an IDX file, plain or gzip: they are refused, or hold exactly what their header
// says.
#include "data/idx.hpp"
#include "fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  syncbn::answer([&] {
    const syncbn::IdxArray array = syncbn::parse_idx(data, size, "input");
    uint64_t product = 1;
    for (const int64_t length : array.sizes) product *= static_cast<uint64_t>(length);
    if (array.bytes.size() < product) throw std::logic_error("fewer bytes than the header says");
    syncbn::idx_digest(array);
  });
  return 0;
}
