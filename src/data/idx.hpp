// IDX files, the format of MNIST: http-era big-endian arrays (LeCun's MNIST page).
//
// magic 00 00 type d (d = 1 to 4 dimensions), d big-endian 32-bit sizes, then exactly their product
// of elements: unsigned bytes (type 8), or big-endian 32-bit integers (type 12), as which QMNIST
// stores its labels. Plain or gzip, told apart by the first two bytes; of gzip what `gunzip -t`
// accepts with status 0: several members, any header fields, zeros behind the last member.
// Everything is checked before and while reading: regular file, magic, sizes, product without
// overflow, payload to the byte, no trailing bytes; a gzip stream is inflated to no more than its
// own header announces.
//
// Errors (Error with the code, message names file, expected and found): kInputMissing (66) for a
// path that is missing, unreadable, or not a regular file; kInputDamaged (65) for anything wrong
// inside. Not collective; knows nothing of MPI and LibTorch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace syncbn {

/// The third byte of the magic.
enum class IdxType : uint8_t { kUnsignedByte = 0x08, kInt = 0x0C };

struct IdxArray {
  std::vector<int64_t> sizes;  ///< (N), (N, rows, columns), …
  std::vector<uint8_t> bytes;  ///< the elements as the file has them
  IdxType type = IdxType::kUnsignedByte;

  size_t element_bytes() const { return type == IdxType::kInt ? 4 : 1; }
  int32_t int_at(size_t element) const;  ///< of type kInt
};

/// Reads and checks a whole file.
IdxArray read_idx(const std::string& path);

/// Parses the bytes of a plain or gzip IDX file; `name` is used in messages.
IdxArray parse_idx(const uint8_t* data, size_t size, const std::string& name);

/// SHA-256 (FIPS 180-4) of what the plain file would hold: header and payload. Lower-case hex.
std::string idx_digest(const IdxArray& array);

}  // namespace syncbn
