#include "plugin/formats/random_access_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>
#include <utility>

#include "plugin/formats/file_error.h"

namespace moetap::plugin {

RandomAccessFile::RandomAccessFile(std::string path) : path_(std::move(path)) {
  struct stat status {};
  if (::stat(path_.c_str(), &status) != 0) throw_file_error("read", path_, errno);
  if (!S_ISREG(status.st_mode)) throw std::runtime_error("cannot read " + path_ + ": not a regular file");
  descriptor_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor_ < 0) throw_file_error("read", path_, errno);
  size_bytes_ = status.st_size;
}

RandomAccessFile::~RandomAccessFile() {
  ::close(descriptor_);
}

void RandomAccessFile::read(int64_t offset_bytes, void* destination, int64_t bytes) const {
  auto* next = static_cast<char*>(destination);
  while (bytes > 0) {
    const ssize_t got = ::pread(descriptor_, next, static_cast<size_t>(bytes), offset_bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_file_error("read", path_, errno);
    if (got == 0) throw std::runtime_error("cannot read " + path_ + ": it ends early");
    next += got;
    offset_bytes += got;
    bytes -= got;
  }
}

std::string RandomAccessFile::read(int64_t offset_bytes, int64_t bytes) const {
  std::string text(static_cast<size_t>(bytes), '\0');
  read(offset_bytes, text.data(), bytes);
  return text;
}

}  // namespace moetap::plugin
