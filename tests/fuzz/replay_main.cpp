// Gives each file named on the command line to a fuzz target, for builds without libFuzzer. It ends
// by whatever the target throws.
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
    if (!file.good() && !file.eof()) {
      std::fprintf(stderr, "cannot read %s\n", argv[i]);
      return 66;
    }
    std::fprintf(stderr, "%s\n", argv[i]);  // the last line names the culprit of a crash
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  }
  std::printf("%d files read\n", argc - 1);
  return argc > 1 ? 0 : 64;
}
