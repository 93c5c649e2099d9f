#include "cli/inputs/sha256.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <array>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <vector>

#include "cli/terminal/command_error.h"

namespace moetap::cli {
namespace {

void check(int succeeded) {
  if (succeeded != 1) throw std::runtime_error("OpenSSL cannot compute a SHA-256");
}

using Hash = std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)>;

Hash begin_hash() {
  Hash hash(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
  check(EVP_DigestInit_ex(hash.get(), EVP_sha256(), nullptr));
  return hash;
}

std::string digits_of(const Hash& hash) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  check(EVP_DigestFinal_ex(hash.get(), digest.data(), &size));
  std::string digits;
  for (unsigned int i = 0; i < size; ++i) digits += fmt::format("{:02x}", digest.at(i));
  return digits;
}

}  // namespace

std::string sha256_of_file(const std::string& path) {
  const Hash hash = begin_hash();
  std::ifstream file(path, std::ios::binary);
  std::vector<char> buffer(size_t{1} << 20);
  while (file) {
    file.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    check(EVP_DigestUpdate(hash.get(), buffer.data(), static_cast<size_t>(file.gcount())));
  }
  if (!file.eof()) {
    throw CommandError(fmt::format("{}: cannot be read; check its permissions", path));
  }
  return digits_of(hash);
}

std::string sha256_of_text(const std::string& text) {
  const Hash hash = begin_hash();
  check(EVP_DigestUpdate(hash.get(), text.data(), text.size()));
  return digits_of(hash);
}

}  // namespace moetap::cli
