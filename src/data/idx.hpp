// IDX files, the format of MNIST: http-era big-endian arrays of unsigned bytes (LeCun's MNIST
// page).
//
// magic 00 00 08 d (d = 1 or 3 dimensions), d big-endian 32-bit sizes, then exactly their product
// of bytes. Plain or gzip, told apart by the first two bytes. Everything is checked before and
// while reading: regular file, magic, sizes, product without overflow, payload to the byte, no
// trailing bytes; a gzip stream is inflated to no more than its own header announces.
//
// Errors (Error with the code, message names file, expected and found): kInputMissing (66) for a
// path that is missing, unreadable, or not a regular file; kInputDamaged (65) for anything wrong
// inside. Not collective; knows nothing of MPI and LibTorch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace syncbn {

struct IdxArray {
  std::vector<int64_t> sizes;  ///< (N) or (N, rows, columns)
  std::vector<uint8_t> bytes;  ///< product of sizes
};

/// Reads and checks a whole file.
IdxArray read_idx(const std::string& path);

/// Parses the bytes of a plain or gzip IDX file; `name` is used in messages.
IdxArray parse_idx(const uint8_t* data, size_t size, const std::string& name);

/// SHA-256 (FIPS 180-4) of what the plain file would hold: header and payload. Lower-case hex.
std::string idx_digest(const IdxArray& array);

}  // namespace syncbn
