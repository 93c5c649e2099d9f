#include "cli/exports/npy_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "plugin/formats/file_error.h"

namespace moetap::cli {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kPreambleBytes = 10;  // magic, version, length of the header

std::string header_of(const std::string& dtype, const std::vector<int64_t>& shape) {
  std::string sizes;
  for (const int64_t size : shape) sizes += fmt::format("{},", size);
  std::string text = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}", dtype, sizes);
  text.append(kAlignment - (kPreambleBytes + text.size() + 1) % kAlignment, ' ');
  text += '\n';
  std::string bytes("\x93NUMPY\x01\x00", 8);
  bytes += static_cast<char>(text.size() & 0xff);
  bytes += static_cast<char>(text.size() >> 8);
  return bytes + text;
}

}  // namespace

NpyFile::NpyFile(const std::string& path, const std::string& dtype, const std::vector<int64_t>& shape) : path_(path) {
  descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (descriptor_ < 0) plugin::throw_file_error("write", path, errno);
  const std::string header = header_of(dtype, shape);
  write(0, header.data(), static_cast<int64_t>(header.size()));
  data_begin_ = static_cast<int64_t>(header.size());
  data_bytes_ = dtype.back() - '0';
  for (const int64_t size : shape) data_bytes_ *= size;
  if (::ftruncate(descriptor_, data_begin_ + data_bytes_) != 0) plugin::throw_file_error("write", path, errno);
}

NpyFile NpyFile::reopen(const std::string& path) {
  NpyFile file;
  file.path_ = path;
  file.descriptor_ = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  unsigned char length[2] = {0, 0};
  struct stat status = {};
  if (file.descriptor_ < 0 || ::pread(file.descriptor_, length, 2, 8) != 2 || ::fstat(file.descriptor_, &status) != 0) {
    plugin::throw_file_error("write", path, errno);
  }
  file.data_begin_ = static_cast<int64_t>(kPreambleBytes) + length[0] + 256 * length[1];
  file.data_bytes_ = status.st_size - file.data_begin_;
  return file;
}

NpyFile::NpyFile(NpyFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      data_begin_(other.data_begin_),
      data_bytes_(other.data_bytes_) {}

NpyFile::~NpyFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void NpyFile::write(int64_t offset_bytes, const void* bytes, int64_t num_bytes) {
  const char* from = static_cast<const char*>(bytes);
  while (num_bytes > 0) {
    const ssize_t written = ::pwrite(descriptor_, from, static_cast<size_t>(num_bytes), data_begin_ + offset_bytes);
    if (written < 0) {
      if (errno == EINTR) continue;
      plugin::throw_file_error("write", path_, errno);
    }
    from += written;
    offset_bytes += written;
    num_bytes -= written;
  }
}

void NpyFile::fill(unsigned char byte) {
  const std::vector<unsigned char> block(size_t{1} << 20, byte);
  for (int64_t done = 0; done < data_bytes_;) {
    const int64_t n = std::min(data_bytes_ - done, static_cast<int64_t>(block.size()));
    write(done, block.data(), n);
    done += n;
  }
}

void NpyFile::close() {
  const int descriptor = std::exchange(descriptor_, -1);
  if (::close(descriptor) != 0) plugin::throw_file_error("write", path_, errno);
}

}  // namespace moetap::cli
