#include "plugin/merge/output_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>

#include "plugin/formats/atomic_file.h"
#include "plugin/formats/file_error.h"
#include "plugin/formats/left_temporaries.h"

namespace moetap::plugin {
namespace {

namespace fs = std::filesystem;

// All files of the folder's file system: they are on the disk before the folder has its name.
void sync_files(const fs::path& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) throw_file_error("write", folder.string(), errno);
  const int failed = ::syncfs(descriptor);
  const int error = errno;
  ::close(descriptor);
  if (failed != 0) throw_file_error("write", folder.string(), error);
}

}  // namespace

OutputFolder::OutputFolder(const std::string& path) : path_(fs::absolute(path).lexically_normal()) {
  if (!path_.has_filename()) path_ = path_.parent_path();
  check_free();
  std::error_code error;
  fs::create_directories(path_.parent_path(), error);
  if (error) throw std::runtime_error(fmt::format("cannot write {}: {}", path_.string(), error.message()));
  remove_left_temporaries(path_);
  temporary_ = fmt::format("{}.tmp-{}-0", path_.string(), ::getpid());
  fs::create_directory(temporary_, error);
  if (error) throw std::runtime_error(fmt::format("cannot write {}: {}", path_.string(), error.message()));
}

OutputFolder::~OutputFolder() {
  std::error_code error;
  if (!committed_) fs::remove_all(temporary_, error);
}

void OutputFolder::check_free() const {
  std::error_code error;
  const bool is_free = !fs::exists(path_, error) || (fs::is_directory(path_, error) && fs::is_empty(path_, error));
  if (!is_free) throw std::runtime_error(fmt::format("{}: is there already; name another path", path_.string()));
}

void OutputFolder::commit() {
  sync_files(temporary_);
  check_free();
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) throw_file_error("write", path_.string(), errno);
  committed_ = true;
  sync_folder(path_.parent_path().string());
}

}  // namespace moetap::plugin
