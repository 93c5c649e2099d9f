#pragma once

#include <cstdint>
#include <string_view>

namespace moetap::plugin {

/// A sum that finds bytes that were not written or are old; about 4 GB/s. It does not protect against a forged file.
/// `seed`: what else must be the same, or the sum of the bytes before.
uint64_t checksum(uint64_t seed, std::string_view bytes);

}  // namespace moetap::plugin
