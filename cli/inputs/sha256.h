#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace moetap::cli {

/// SHA-256 (FIPS 180-4) of bytes that come in pieces.
class Sha256 {
 public:
  void update(std::string_view bytes);
  /// 64 hexadecimal digits. Ends the message: call it once.
  std::string finish();

 private:
  static constexpr size_t kBlockBytes = 64;

  void process(const unsigned char* block);

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<unsigned char, kBlockBytes> pending_{};
  size_t num_pending_ = 0;
  uint64_t num_bytes_ = 0;
};

/// SHA-256 of a file. Throws CommandError if it cannot be read. Blocks for as long as the disk takes.
std::string sha256_of_file(const std::string& path);

}  // namespace moetap::cli
