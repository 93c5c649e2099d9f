#include "plugin/formats/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <stdexcept>
#include <system_error>

#include "plugin/formats/file_error.h"
#include "plugin/formats/open_file.h"
#include "plugin/formats/temporary_path.h"

namespace moetap::plugin {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;

std::atomic<int64_t> temporary_files{0};

void write_whole(int descriptor, const std::string& path, int64_t offset, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(descriptor, bytes.data(), bytes.size(), offset);
    if (written < 0) {
      if (errno == EINTR) continue;
      throw_file_error("write", path, errno);
    }
    bytes.remove_prefix(static_cast<size_t>(written));
    offset += written;
  }
}

}  // namespace

void throw_file_error(const char* action, const std::string& path, int error_number) {
  throw FileError(std::string("cannot ") + action + " " + path + ": " + std::generic_category().message(error_number));
}

AtomicFile::AtomicFile(std::string path, Readers readers)
    : path_(std::move(path)), temporary_(temporary_path(path_, temporary_files++)), owner_(::getpid()) {
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC,
                       readers == Readers::kOwner ? kPrivateFile : 0666);
  if (descriptor_ < 0) throw_file_error("write", path_, errno);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty() && ::getpid() == owner_) ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::string_view bytes) {
  if (buffer_.size() + bytes.size() > kBufferBytes) flush();
  if (bytes.size() >= kBufferBytes) {
    write_whole(descriptor_, path_, flushed_bytes_, bytes);
    flushed_bytes_ += static_cast<int64_t>(bytes.size());
    return;
  }
  buffer_.append(bytes);
}

void AtomicFile::write_at(int64_t offset_bytes, std::string_view bytes) {
  write_whole(descriptor_, path_, offset_bytes, bytes);
}

void AtomicFile::flush() {
  write_whole(descriptor_, path_, flushed_bytes_, buffer_);
  flushed_bytes_ += static_cast<int64_t>(buffer_.size());
  buffer_.clear();
}

void AtomicFile::commit() {
  flush();
  // Some file systems cannot sync (EINVAL); there the rename is still atomic for other processes.
  if (::fsync(descriptor_) != 0 && errno != EINVAL) throw_file_error("write", path_, errno);
  const int descriptor = descriptor_;
  descriptor_ = -1;
  if (::close(descriptor) != 0) throw_file_error("write", path_, errno);
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) throw_file_error("write", path_, errno);
  temporary_.clear();
  sync_folder(std::filesystem::path(path_).parent_path().string());
}

void write_file_atomically(const std::string& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

void sync_folder(const std::string& folder) {
  const int descriptor = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;  // the files are there; only their survival of a power cut is less sure
  ::fsync(descriptor);
  ::close(descriptor);
}

}  // namespace moetap::plugin
