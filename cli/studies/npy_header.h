#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moetap::cli {

enum class NpyKind { kBool, kSigned, kUnsigned, kReal };

/// What the header of a .npy file says.
struct NpyHeader {
  NpyKind kind = NpyKind::kReal;
  int64_t element_bytes = 0;
  bool fortran_order = false;
  std::vector<int64_t> shape;
  int64_t data_begin = 0;    // bytes from the start of the file
  int64_t num_elements = 0;  // the product of the shape

  std::string dtype() const;  // as NumPy spells it: "float32"
  std::string shape_text() const;
};

/// The longest header that is read; NumPy's own are below 1 KiB.
inline constexpr int64_t kMaxNpyHeaderBytes = int64_t{1} << 20;

/// Reads the header of versions 1 to 3. `begin`: the first bytes of the file, all of them or at least
/// kMaxNpyHeaderBytes + 12; `file_bytes`: how long it is. Runs no code: the header is a Python literal of three known
/// keys, and nothing else is understood. Throws std::runtime_error with one line (without the file's name): no .npy
/// file, another version, objects, a structured or big-endian dtype, sizes that overflow, a file that is too short.
NpyHeader parse_npy_header(std::string_view begin, int64_t file_bytes);

}  // namespace moetap::cli
